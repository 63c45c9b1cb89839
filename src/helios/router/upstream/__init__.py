"""Connections to the servers, shared and dedicated."""
