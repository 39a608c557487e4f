"""Signed requests to a node's keeper: what the collector hands to pods and to other keepers instead of the key.

agent/grants.py checks them by the same few lines, because the agent runs without our libraries; a test shows that both
agree. A grant names one method and one thing, and expires.
"""

import hmac
from urllib.parse import quote

GRANT_SECONDS = 600
"""For how long a signed request is good: its bytes may still be on their way after that."""

PUT_SECONDS = 3600
"""The same for outputs: a plan is asked for while the task runs."""


def keeper_token(key: str, node: str) -> str:
    """What the keeper of a node shows to the collector."""
    return _signature(key, f"node\n{node}")


def blob_url(base: str, key: str, digest: str, expires: int) -> str:
    """A signed GET of one blob at the keeper that listens at `base`; `expires` in epoch seconds."""
    grant = _signature(key, f"GET\n{digest}\n{expires}")
    return f"{base}/v1/blob/{digest}?expires={expires}&grant={grant}"


def output_url(base: str, key: str, run: str, task: str, attempt: int, expires: int) -> str:
    """A signed PUT of any output of one attempt at the keeper that listens at `base`."""
    grant = _signature(key, f"PUT\n{run}\n{task}\n{attempt}\n{expires}")
    return f"{base}/v1/output?run={quote(run)}&task={quote(task)}&attempt={attempt}&expires={expires}&grant={grant}"


def _signature(key: str, text: str) -> str:
    return hmac.new(key.encode(), text.encode(), "sha256").hexdigest()
