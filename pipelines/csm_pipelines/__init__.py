"""How the steps compose, run here or are submitted there; the `csm` command."""
