"""Helios: one elastic key space over many Valkey or Redis servers."""
