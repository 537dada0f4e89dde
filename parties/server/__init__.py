"""The edge of every party: gRPC with TLS around an engine."""
