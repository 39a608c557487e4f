"""Who may ask for what: bearer tokens, known by their digests.

A token has 192 random bits or more, so its SHA-256 is enough: there is nothing to guess that a slow hash would make
slower.
"""

import hmac
import re
from hashlib import sha256
from typing import Literal

from msgspec import Struct

from helios.settings import SettingInvalid

Scope = Literal["read", "submit"]

_ENTRY = re.compile(r"([A-Za-z0-9._-]{1,64}):(read|submit|read\+submit|submit\+read):([0-9a-f]{64})")


class Token(Struct, frozen=True):
    """What is known of a token: never the token itself."""

    name: str
    scopes: frozenset[str]
    digest: bytes


def tokens_of(text: str) -> list[Token]:
    """`NAME:SCOPES:SHA256` each, separated by spaces or commas. Raises SettingInvalid, which does not quote them."""
    tokens: list[Token] = []
    for number, each in enumerate(re.split(r"[\s,]+", text.strip()) if text.strip() else (), 1):
        found = _ENTRY.fullmatch(each)
        if found is None:
            raise SettingInvalid(
                f"HELIOS_HTTP_TOKENS: entry {number} is not NAME:SCOPES:SHA256 with scopes read, submit or "
                "read+submit; `helios token NAME` makes one"
            )
        tokens.append(Token(found[1], frozenset(found[2].split("+")), bytes.fromhex(found[3])))
    if not tokens:
        raise SettingInvalid("HELIOS_HTTP_TOKENS is empty, so nobody could ask anything; `helios token NAME` makes one")
    return tokens


def token_of(header: str, tokens: list[Token]) -> Token | None:
    """The token that an Authorization header shows. Takes the same time whichever it is, and if it is none."""
    kind, _, shown = header.partition(" ")
    digest = sha256(shown.strip().encode("utf-8", "replace")).digest()
    found: Token | None = None
    for token in tokens:
        if hmac.compare_digest(digest, token.digest):
            found = token
    return found if kind.lower() == "bearer" else None
