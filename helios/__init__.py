"""What two processes must agree on: the DAG, the messages, the keys, the settings and the transitions.

Rule: code here takes clients and never makes one, and imports nothing else of ours. If only one process needs it,
it lives with that process.
"""
