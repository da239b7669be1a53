"""The command line: `python -m mochi COMMAND`, a file a command."""
