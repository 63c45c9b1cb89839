"""The use cases: the one door behind RESP verbs, REST and CLI."""
