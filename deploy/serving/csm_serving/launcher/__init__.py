"""What starts a Triton on this machine, finds its installation, and swaps the bundle that it serves."""
