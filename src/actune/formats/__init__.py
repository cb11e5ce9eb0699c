"""Raw row <-> Conversation: one file a dataset format."""
