"""What a served model is put through, on a real Triton: `benchmarks/serving.py` is its program."""
