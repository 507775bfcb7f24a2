"""Evaluating: what judges hear when a model speaks sentences that it never saw, and the report of it."""
