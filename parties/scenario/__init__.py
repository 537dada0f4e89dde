"""Scripted end-to-end runs: a TOML file says who takes part, what happens, and what must be refused."""
