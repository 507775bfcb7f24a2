"""Deploying: a promoted bundle published where servers fetch it, and its release rolled out."""
