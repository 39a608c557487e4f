"""Cases: what a target is given, as plain JSON, so that a corpus is readable text; and how they are changed.

Bytes are text here: what is UTF-8 as it reads, every other byte as a surrogate, as Python's file names are.

Every choice is asked of a `random.Random`. Python's own is fast; Hypothesis has one whose choices it can make smaller.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from random import Random
from typing import Any

Json = Any

DEEP = 100_000
"""So many brackets: far more than any reader's stack has room for."""

NUMBERS = [0, -1, 1, 255, 2**31, 2**49 + 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e308]
NUMBERS += [float("nan"), float("inf"), float("-inf")]
TEXTS = ["", " ", "\0", "\n", "..", ".", "/", "../../etc/passwd", "/etc/passwd", "a//b", "true", "null", "NaN", "-0"]
TEXTS += ["²", "٣", "é", "\u202e", "\ud800", "\udcff", "\U0001f600", "'", '"', "\\", "{}", "[]", "a" * 300, "x" * 5_000]
TEXTS += ["9" * 5_000, "1e400", "0x10", "*", "%00", "%2e%2e%2f", "../" * 40, "a/" * 40 + "a", "1764027260123-0"]
TEXTS += ["2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59+23:59", "0001-01-01T00:00:00"]
WHOLE = [
    "[" * DEEP,
    "{" + '"a":{' * DEEP,
    "[" * DEEP + "]" * DEEP,
    '{"v":' + "1" * 5_000 + "}",
    "{}",
    "[]",
    "null",
    '"',
]
"""Whole texts that readers of JSON have stumbled over."""
PIECES = [*TEXTS, *(str(number) for number in NUMBERS), "[" * 100, "]" * 100, '{"a":', "}", "]", ",", ":", "\r\n", "\t"]
LETTERS = "abz019 _-./:'\"\\{}[]é€\u2028\U0001f600\x00\x7f\x85"
MOST_CHARACTERS = 400_000
REPEATED_CHARACTERS = 5_000
"""Longer lists are not repeated: what is beyond a limit on size, a test of that limit sends."""

_HALVES = re.compile("([\ud800-\udfff]+)")


def to_bytes(text: str) -> bytes:
    """The bytes that the text stands for; other surrogates as UTF-8 would have them."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return b"".join(
            _half(part) if "\ud800" <= part[:1] <= "\udfff" else part.encode() for part in _HALVES.split(text)
        )


def _half(text: str) -> bytes:
    return b"".join(
        letter.encode("utf-8", "surrogateescape" if letter >= "\udc80" and letter <= "\udcff" else "surrogatepass")
        for letter in text
    )


def to_text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def body_bytes(body: Json) -> bytes:
    """A document, or the text of {"raw": text}, as the bytes that are sent."""
    if isinstance(body, dict) and body.keys() == {"raw"} and isinstance(body["raw"], str):
        return to_bytes(body["raw"])
    return json.dumps(body).encode()


def changed(random: Random, seeds: Sequence[Json], pieces: Sequence[str] = ()) -> Json:
    """A seed with a few changes: of a text's letters, or of a document's values and keys."""
    holder = [deepcopy(random.choice(seeds))]
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        places = list(_places(holder))
        container, key = places[random.randrange(len(places))]
        _change(random, container, key, pieces)
    return holder[0]


def smaller(case: Json) -> Iterator[Json]:
    """The case with one part less, the largest parts first."""
    holder = [case]
    for number, (container, key) in enumerate(_places(holder)):
        value = container[key]
        if isinstance(container, dict) or container is not holder:
            yield _altered(case, number, lambda at, k: at.pop(k))
        if isinstance(value, str) and value:
            for start, end in (
                (0, len(value) // 2),
                (len(value) // 2, len(value)),
                (0, len(value) - 1),
                (1, len(value)),
            ):
                yield _altered(case, number, lambda at, k, s=start, e=end: at.__setitem__(k, at[k][s:e]))


def _altered(case: Json, number: int, alter: Callable[[Any, Any], object]) -> Json:
    holder = [deepcopy(case)]
    container, key = list(_places(holder))[number]
    alter(container, key)
    return holder[0]


def _places(container: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Every place that holds a value, outermost first."""
    keys = list(container) if isinstance(container, dict) else range(len(container))
    for key in keys:
        yield container, key
    for key in keys:
        if depth < 40 and isinstance(container[key], dict | list):
            yield from _places(container[key], depth + 1)


def _change(random: Random, container: Any, key: Any, pieces: Sequence[str]) -> None:
    value = container[key]
    if isinstance(value, str) and random.random() < 0.6:
        container[key] = _edited(random, value, pieces)
        return
    if isinstance(value, dict | list) and random.random() < 0.05:
        container[key] = {"raw": random.choice(WHOLE)}
        return
    match random.randrange(6):
        case 0 if isinstance(container, dict):
            del container[key]
        case 1 if isinstance(container, dict):
            container[random.choice(TEXTS)] = container.pop(key)
        case 2 if isinstance(container, dict):
            container[_letters(random)] = value_of(random)
        case 2 if len(container) < 100:
            container.insert(key, deepcopy(value))
        case 3 if isinstance(value, list) and value and len(json.dumps(value)) < REPEATED_CHARACTERS:
            container[key] = value * random.randint(2, 60)
        case 4 if isinstance(value, list) and value:
            value.pop(random.randrange(len(value)))
        case _:
            container[key] = value_of(random)


def _edited(random: Random, text: str, pieces: Sequence[str]) -> str:
    if random.random() < 0.03:
        return random.choice(WHOLE)
    start = random.randint(0, len(text))
    end = min(len(text), start + random.choice((0, 0, 1, 2, 8, 64, 10_000)))
    match random.randrange(6):
        case 0:
            new = random.choice(PIECES)
        case 1:
            new = random.choice(pieces or PIECES)
        case 2:
            new = _letters(random)
        case 3:
            new = to_text(bytes(random.randrange(256) for _ in range(random.randint(1, 4))))
        case 4:
            new = text[start:end] * random.choice((2, 3, 100))
        case _:
            new = ""
    return (text[:start] + new + text[end:])[:MOST_CHARACTERS]


def _letters(random: Random) -> str:
    return "".join(random.choice(LETTERS) for _ in range(random.randint(0, 6)))


def value_of(random: Random, depth: int = 0) -> Json:
    """What is hardly ever expected."""
    match random.randrange(8 if depth < 3 else 6):
        case 0:
            return random.choice((None, True, False))
        case 1:
            return random.choice(NUMBERS)
        case 2:
            return random.randint(-(2**65), 2**65)
        case 3 | 4:
            return random.choice(TEXTS)
        case 5:
            return _letters(random)
        case 6:
            return [value_of(random, depth + 1) for _ in range(random.randint(0, 3))]
        case _:
            return {_letters(random): value_of(random, depth + 1) for _ in range(random.randint(0, 3))}
