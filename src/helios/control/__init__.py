"""The decisions of the coordinator as pure functions: (state, event) → (state, effects)."""
