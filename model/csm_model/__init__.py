"""The conversational speech model: tensors, training, inference and export. Knows torch; knows no platform."""
