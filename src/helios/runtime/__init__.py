"""Composition roots: the only place that picks backends and the event loop."""
