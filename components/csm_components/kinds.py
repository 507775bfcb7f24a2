"""The kinds of artefacts that steps hand on."""

from __future__ import annotations

from csm_components.spec import Kind

CORPUS = Kind(name="corpus", description="Folder or tree of sound and text.", kubeflow="Dataset")
ANNOTATIONS = Kind(
    name="annotations",
    description="Who says what and when in a corpus; empty takes its own texts.",
    kubeflow="Dataset",
)
ANNOTATIONS_PART = Kind(name="annotations-part", description="Annotations of one shard.", kubeflow="Dataset")
CODEC = Kind(name="codec", description="Folder or tree of the codec.", kubeflow="Model")
BASE = Kind(name="base", description="Folder or tree of the bundle to begin from; empty begins from nothing.")
REPLAY = Kind(name="replay", description="Folder or tree of token shards that are replayed; empty replays nothing.")
CONVERSATIONS = Kind(name="conversations", description="Conversations of 24 kHz mono sound.", kubeflow="Dataset")
CONVERSATIONS_PART = Kind(name="conversations-part", description="Conversations of one shard.", kubeflow="Dataset")
TOOLS = Kind(name="tools", description="tokenizer.json and codec/, for every shard.")
TOKENS = Kind(name="tokens", description="Token shards: text ids and codes.", kubeflow="Dataset")
TOKENS_PART = Kind(name="tokens-part", description="Token shards of one task.", kubeflow="Dataset")
TRAINED = Kind(name="trained", description="Float bundle, with the metrics of its training.", kubeflow="Model")
BUNDLE = Kind(name="bundle", description="Bundle with the released weights, codec and tokenizer.", kubeflow="Model")
EVALUATION = Kind(name="evaluation", description="Figures, report and clips.", kubeflow="Metrics")
VERSION = Kind(name="version", description="The registered version and the gate's verdict.")
CARD = Kind(name="card", description="The version's model card.")
SPEECH = Kind(name="speech", description="A spoken dialogue, judged, and a sentence; how fast they were.")
RELEASE = Kind(name="release", description="Values of the chart csm-serving that serve the bundle.")
