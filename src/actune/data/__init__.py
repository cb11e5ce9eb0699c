"""Sources, mixing, identity rows, checks, encoding, packing: Conversation in, Batch out. No torch."""
