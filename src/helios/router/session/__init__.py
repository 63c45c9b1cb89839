"""The router's leases in the store: one session after the other, and who each is at the members."""
