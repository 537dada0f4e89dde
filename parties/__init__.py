"""The edges: servers, storage, command line, and the phone's software."""

import os

# gRPC's core writes lines of its own, with addresses in them, which no log of ours may hold. It reads this at import.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
