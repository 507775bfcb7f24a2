"""Training the audio codec from a corpus."""
