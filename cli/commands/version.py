"""`helios version`: which Helios this is."""

from cli.failure import SUCCEEDED
from cli.output import put
from helios.version import VERSION


def version() -> int:
    """Print the version."""
    put(VERSION)
    return SUCCEEDED
