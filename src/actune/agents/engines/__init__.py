"""Engines: what turns prompt ids into text, in this process or elsewhere."""
