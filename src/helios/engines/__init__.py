"""Data servers behind the Engine protocol: Valkey (and Redis), and one in memory."""
