"""Registering: a model version with all its digests, and the gate that makes it champion."""
