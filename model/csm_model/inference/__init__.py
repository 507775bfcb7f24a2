"""Speaking with a trained model."""
