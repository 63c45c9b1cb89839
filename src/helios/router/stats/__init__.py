"""What a router counts and samples, and the endpoint that tells it."""
