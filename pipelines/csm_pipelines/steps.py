"""The names of the pipeline's steps, in the order in which they run."""

STEPS = ("ingest", "tokenise", "train", "export", "evaluate", "register", "speak")
