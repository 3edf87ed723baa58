"""The properties, a file a family of parts or a kind of promise."""
