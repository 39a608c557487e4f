"""`helios env`: the embedded stack's addresses and secrets, as a shell reads them."""

import shlex

from cli.connection import REDIS, stack_ready
from cli.failure import SUCCEEDED
from cli.output import put_as_it_is

NAMES = (
    "HELIOS_REDIS_URL",
    "HELIOS_S3_ENDPOINT",
    "HELIOS_S3_ACCESS_KEY",
    "HELIOS_S3_SECRET_KEY",
    "HELIOS_S3_REGION",
    "HELIOS_S3_BUCKET",
)


def env() -> int:
    """Print how to reach the embedded Valkey and S3, passwords included, for eval "$(helios env)"."""
    with stack_ready(REDIS) as stack:
        environ = stack.environ
        put_as_it_is("\n".join(f"export {name}={shlex.quote(environ[name])}" for name in NAMES))
    return SUCCEEDED
