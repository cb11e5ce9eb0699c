"""Models: load, adapter targets, attention, precision, merge."""
