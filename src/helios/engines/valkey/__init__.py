"""Engines that are Valkey or Redis servers."""

from helios.engines.valkey.connector import ValkeyConnector

__all__ = ["ValkeyConnector"]
