"""Evidence: what signed messages prove to somebody who was not there (design §3 TRACE; non-repudiation)."""
