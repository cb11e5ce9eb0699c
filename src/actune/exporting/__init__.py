"""What becomes of a trained model outside of actune: GGUF, Ollama, servers, a card, a hub."""
