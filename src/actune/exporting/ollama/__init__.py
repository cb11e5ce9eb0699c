"""Ollama: a Modelfile whose template writes what was trained, as far as Go templates can, and says where they cannot."""
