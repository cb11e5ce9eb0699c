"""Settings: one strict pydantic tree, loaded from a YAML recipe plus flags. Imports no torch."""
