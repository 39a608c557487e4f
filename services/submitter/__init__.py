"""Validates DAGs, opens runs, and settles tasks: it owns readiness, retries, upstream failure and cancellation.

It reads `submissions`, `controls` and `tasks:finished`; it writes `tasks:ready`, `jobs:cancelled` and `runs:settled`.
It knows nothing of Jobs, pods or the cache.
"""
