"""The `helios` command. Rule: stdout is data, stderr is narration, and every error says what to do next.

One file for each command in `cli/commands`, imported only when that command runs.
"""
