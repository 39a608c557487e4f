"""Local mode on one machine: an embedded Valkey, S3 and node under HELIOS_HOME, shared by the commands that need them.

Rule: commands come in through lease.py and see a Stack. Only the supervisor starts and ends processes, and only the
node those of pods.
"""
