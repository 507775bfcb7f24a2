"""What client and server say to each other: requests, tensors, encodings of sound, errors. Light: no torch, no gRPC."""
