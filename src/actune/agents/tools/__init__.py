"""Tools: what a model is told of them, who answers their calls, what may be called."""
