"""Rows of files as numbers in tables, and their encodings, kept between runs."""
