"""Number formats: the table of all formats, rounding to them, and packing into bytes."""
