"""Conversation -> text and token ids: dialects, chat templates, the token tree."""
