"""Export: the quantised bundle, and what the quantisation cost."""
