"""The agent of a machine: it supervises the local server processes."""
