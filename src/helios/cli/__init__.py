"""The commands that people type: helios and helios-cli."""
