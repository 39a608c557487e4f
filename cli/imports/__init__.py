"""DAGs of other systems into Helios' own format: pure functions of a text. No I/O happens here.

Rule: what cannot be carried over is a `Loss` with its line and a reason. Nothing is dropped silently: a field that a
reader does not know is a loss too.
"""
