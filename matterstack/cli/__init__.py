"""The command line: a command parses, calls one function, renders what it returned, and picks the exit code."""
