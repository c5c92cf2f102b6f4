"""The command line: one command a file, no work of its own."""
