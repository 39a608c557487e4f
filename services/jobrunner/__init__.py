"""Creates and deletes Jobs, and nothing else: it neither watches them nor knows what became of them.

It reads `tasks:ready` and `jobs:cancelled` and writes `jobs:launched`. It is idempotent: a Job's name is a hash of its
attempt, and the fence is checked before and after the Job is created.
"""
