"""Recordings to conversations: `step.ingest` writes them, `conversations.read_conversations` reads them."""
