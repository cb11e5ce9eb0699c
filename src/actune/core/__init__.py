"""Types, errors and the ReAct grammar. Standard library only; imports nothing else of actune."""
