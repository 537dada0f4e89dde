"""The five roles of the paper and the software provider: one class a paper step, one module a phase."""
