"""The model behind Triton: wire protocol, engine adaptor, client and local server."""
