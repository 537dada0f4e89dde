"""The checker: what really happened, from databases and captured messages, not from the steps' own word."""
