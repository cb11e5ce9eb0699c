"""actune fine-tunes language models into tool-using agents: train exactly what the agent will see."""

__version__ = "0.1.0"
