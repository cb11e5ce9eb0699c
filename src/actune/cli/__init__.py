"""Command line: argv -> settings -> one call of recipes. Imports neither torch nor transformers."""
