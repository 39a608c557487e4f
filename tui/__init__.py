"""The terminal dashboard: submits DAGs and shows their runs as they go.

Rule: `model` is pure; `source` alone talks to Redis, in threads; `widgets` and `screens` never wait for either.
"""
