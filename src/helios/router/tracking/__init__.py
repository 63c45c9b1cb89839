"""Client-side caches: which client has read what, and who is told when it changes."""
