"""A comparison as one page that can be mailed."""
