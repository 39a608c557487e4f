"""`helios version`: which Helios this is."""

from importlib.metadata import version as installed

from cli.failure import SUCCEEDED
from cli.output import put


def version() -> int:
    """Print the version."""
    put(installed("helios"))
    return SUCCEEDED
