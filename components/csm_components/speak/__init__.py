"""Serving a bundle on this machine and listening to what it says."""
