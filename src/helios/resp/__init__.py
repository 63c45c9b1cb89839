"""The RESP protocol and the table of commands. Pure."""
