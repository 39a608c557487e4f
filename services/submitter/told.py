"""What is wrong with a record that every look finds anew: told once for each change, and every hour again."""

from collections.abc import Collection

AGAIN_MS = 3_600_000


class Told:
    """What was said last of each record, and when."""

    def __init__(self) -> None:
        self.last: dict[str, tuple[str, int]] = {}

    def keep(self, names: Collection[str]) -> None:
        """Forget all others, which are well or gone."""
        self.last = {name: last for name, last in self.last.items() if name in names}

    def is_news(self, name: str, words: str, now: int) -> bool:
        """Whether it is to be said now; `now` in milliseconds."""
        last = self.last.get(name)
        if last is not None and last[0] == words and now - last[1] < AGAIN_MS:
            return False
        self.last[name] = (words, now)
        return True
