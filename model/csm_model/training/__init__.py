"""Training the model from token shards."""
