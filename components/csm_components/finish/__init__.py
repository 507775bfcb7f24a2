"""Finishing: what is done once at the end of a pipeline, however it ended."""
