"""The demo's small world: its words, values and facts, the text its base model is trained on, its agent rows."""
