"""Files, hubs and what is in them: raw rows, each with its line, and the conversations they are."""
