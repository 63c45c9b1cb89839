"""What the inside of Helios asks of the outside: a store, engines, a clock."""
