"""The attempt token: what a pod shows to the collector's endpoint, minted by the jobrunner.

It names one attempt and an expiry in epoch seconds, under an HMAC-SHA256; it opens nothing but that attempt's plan and
result, and only while the attempt is current.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec

TOKEN_SECONDS = 30 * 86_400
"""A task may wait in a cluster's queue for days before its pod first shows the token."""


class TokenInvalid(ValueError):
    """The token is not one of ours, was changed, or has expired."""


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """What a token names; `expires` in epoch seconds."""

    run: str
    task: str
    attempt: int
    expires: int


def mint(key: str, attempt: Attempt) -> str:
    body = urlsafe_b64encode(msgspec.json.encode(attempt)).decode()
    return f"{body}.{_signature(key, body)}"


def check(key: str, token: str, now_seconds: float) -> Attempt:
    """The attempt that the token names; raises TokenInvalid."""
    body, _, signature = token.partition(".")
    if not body.isascii() or not hmac.compare_digest(_signature(key, body).encode(), signature.encode()):
        raise TokenInvalid("the token's signature is wrong")
    attempt = msgspec.json.decode(urlsafe_b64decode(body), type=Attempt)
    if attempt.expires < now_seconds:
        raise TokenInvalid("the token has expired")
    return attempt


def _signature(key: str, body: str) -> str:
    return hmac.new(key.encode(), body.encode(), "sha256").hexdigest()
