"""Signed requests to the keeper, as it checks them, and its own token; helios/grants.py makes the former.

Every grant names one method and one thing, and expires; the key itself never travels.
"""

import hashlib
import hmac
from collections.abc import Mapping

_FIELDS = {"GET": ("digest",), "PUT": ("run", "task", "attempt")}


def keeper_token(key: str, node: str) -> str:
    """What the keeper of a node shows to the collector."""
    return _signature(key, f"node\n{node}")


def granted(key: str, method: str, fields: Mapping[str, str], now_seconds: float) -> bool:
    """Whether the request's `grant` is for its method and fields, and has not expired. HEAD goes with GET."""
    expires = fields.get("expires", "")
    if not key or not expires.isascii() or not expires.isdigit() or len(expires) > 12 or int(expires) < now_seconds:
        return False
    names = _FIELDS["GET" if method == "HEAD" else method]
    text = "\n".join(("GET" if method == "HEAD" else method, *(fields.get(name, "") for name in names), expires))
    return hmac.compare_digest(_signature(key, text).encode(), fields.get("grant", "").encode("utf-8", "replace"))


def _signature(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
