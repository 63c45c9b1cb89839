"""Who may do what: users' rights, how they log in, and how all processes come to know them; TLS."""
