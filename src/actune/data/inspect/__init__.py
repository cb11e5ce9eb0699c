"""What a person is shown of rows: in a terminal, on a page, in numbers."""
