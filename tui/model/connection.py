"""How the way to Redis is, as plain data."""

import msgspec


class Connection(msgspec.Struct, frozen=True):
    """How the way to Redis is. `since_ms` and `retry_at_ms` are on this machine's clock."""

    state: str = "loading"
    """loading (the first snapshot is being read), live or lost."""
    since_ms: int = 0
    retry_at_ms: int = 0
    trouble: str = ""
    """Why it is lost, and what to do."""
    loaded: int = 0
    total: int = 0
    """Runs read, and runs there are, while loading."""
