"""Anytime inference as a gRPC service: the client's deadline is the budget of time (predict.proto)."""
