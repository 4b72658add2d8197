"""The command line: the one room that knows gin."""
