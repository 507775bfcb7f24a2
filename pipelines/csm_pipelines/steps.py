"""The names of the pipelines' steps, in the order in which they run."""

STEPS = ("ingest", "tokenise", "train", "export", "evaluate", "register", "speak")
"""Of `csm run`."""

CLUSTER_STEPS = (
    "plan-ingest",
    "ingest-shard",
    "ingest",
    "plan-tokenise",
    "tokenise-shard",
    "tokenise",
    "fetch",
    "train",
    "keep",
    "export",
    "evaluate",
    "register",
    "deploy",
    "end-run",
)
"""Of the pipelines of a cluster; a profile says by these names what each may use."""

_DATA = ("plan-ingest", "ingest-shard", "ingest", "plan-tokenise", "tokenise-shard", "tokenise")
_JUDGED = ("export", "evaluate", "register")
PIPELINE_STEPS: dict[str, tuple[str, ...]] = {
    "training": (*_DATA, "train", "keep", *_JUDGED, "end-run"),
    "finetune": (*_DATA, "train", "keep", *_JUDGED, "end-run"),
    "release": ("fetch", *_DATA, *_JUDGED, "deploy", "end-run"),
    "nightly": (*_DATA, "train", "keep", *_JUDGED, "deploy", "end-run"),
}
"""Of each of them; a test compares it with what is compiled."""

_TASKS = {"join-ingest": "ingest", "join-tokenise": "tokenise"}


def cluster_step_of(task: str) -> str:
    """The step that a task of a cluster's pipeline runs; empty for what is no step: a driver, a loop."""
    name = task.removesuffix("-component")
    step = _TASKS.get(name, name)
    return step if step in CLUSTER_STEPS and name != task else ""
