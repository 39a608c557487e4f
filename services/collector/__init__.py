"""Owns what happened: ends attempts, classifies them, keeps the logs, and finalises a run's metrics.

It reads `jobs:launched`, whose entries stay pending until their pod is wrapped up, and `runs:settled`; it writes
`tasks:finished`. Its endpoint hands pods their plans and takes their results.
"""
