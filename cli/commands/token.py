"""`helios token`: a new token for the HTTP API."""

import hashlib
import re
import secrets
from typing import Literal

from cli.failure import SUCCEEDED, CommandFailed
from cli.output import narrate, put

TOKEN_BYTES = 32


def token(name: str, /, *, scope: Literal["read", "submit", "read+submit"] = "read+submit") -> int:
    """Make a token for the HTTP API, and the entry that lets it in.

    The token is the first line and is kept nowhere: give it to whoever is to have it. The second goes into
    HELIOS_HTTP_TOKENS of the API, beside those that are there; it holds the token's digest only.

    Parameters
    ----------
    name
        Whose it is, as logs call it: letters, digits, '.', '_' and '-'.
    scope
        read: look at everything; submit: send DAGs and cancel runs.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise CommandFailed(f"{name!r} is no name for a token", hint="1 to 64 letters, digits, '.', '_' and '-'")
    made = secrets.token_urlsafe(TOKEN_BYTES)
    put(made)
    put(entry(name, scope, made))
    narrate("the first line is the token, the second its entry for HELIOS_HTTP_TOKENS")
    return SUCCEEDED


def entry(name: str, scope: str, made: str) -> str:
    return f"{name}:{scope}:{hashlib.sha256(made.encode()).hexdigest()}"
