"""The names of the pipelines' steps, in the order in which they run."""

STEPS = ("ingest", "tokenise", "train", "export", "evaluate", "register", "speak")
"""Of `csm run`."""

CLUSTER_STEPS = (
    "plan-ingest",
    "ingest-shard",
    "join-ingest",
    "plan-tokenise",
    "tokenise-shard",
    "join-tokenise",
    "train",
    "export",
    "evaluate",
    "register",
    "deploy",
    "end-run",
)
"""Of the pipelines of a cluster; a profile says by these names what each may use."""
