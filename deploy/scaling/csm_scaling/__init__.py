"""How many servers there would be: Kubernetes' and KEDA's arithmetic over a trace of streams, without a cluster."""
