"""A report: a comparison as one self-contained HTML page."""
