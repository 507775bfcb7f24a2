"""The model behind Triton, in four rooms: `wire`, `client`, `server`, `launcher`. Each may import those before it."""
