"""What one pipeline step does: ingest, tokenise, train, evaluate, export, register, deploy."""
