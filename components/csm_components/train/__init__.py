"""Training: torchx starts the agents, the trainer of `csm_model` does the work, MLflow keeps the record."""
