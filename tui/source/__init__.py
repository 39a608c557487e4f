"""Where what is shown comes from, and where actions go: Redis, and the object store for downloads.

Rule: everything here may block, so it runs in a thread; it knows no widget.
"""
