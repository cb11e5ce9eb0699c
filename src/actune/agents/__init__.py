"""Agents in use: an engine that turns prompt ids into text, tools, and the loop between the two."""
