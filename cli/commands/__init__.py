"""One file for each command: its function takes what the user typed and returns the exit code."""
