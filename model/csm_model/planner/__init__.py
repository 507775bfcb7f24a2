"""What a training takes, by arithmetic: FLOPs, memory, time, storage. Nothing here imports torch."""
