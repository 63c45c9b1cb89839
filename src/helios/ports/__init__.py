"""What the inside of Helios asks of the outside: a store and the records in it, engines, a clock."""
