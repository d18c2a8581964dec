"""A node of Flower's Fleet API without flwr: protobuf over HTTP, signed, resumable (docs/protocol.md)."""
