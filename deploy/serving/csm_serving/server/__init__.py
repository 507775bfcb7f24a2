"""What runs inside Triton: the engine of streams, voices, consent, audit, metrics. Also the same without a server."""
