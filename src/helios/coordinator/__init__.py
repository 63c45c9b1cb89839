"""The one process that changes the topology: it observes, steps the pure control code and performs its effects."""
