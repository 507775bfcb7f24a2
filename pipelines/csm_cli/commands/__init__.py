"""The commands of `csm`, one module each; each imports what it needs when it runs."""
