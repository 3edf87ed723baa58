"""The properties, with one file for each family or kind of promise."""
