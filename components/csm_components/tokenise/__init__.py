"""Conversations to token shards: `step.tokenise`."""
