"""What Argo writes within texts: `{{…}}`, dependencies, conditions, sequences. No I/O happens here."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

_TAG = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_TOKEN = re.compile(r"\s*(&&|\|\||!|\(|\)|[A-Za-z0-9_][\w-]*(?:\.[A-Za-z]+)?)")
_SUCCESS = ("Succeeded",)
_PARTS = r"""(?:\.[\w-]+|\[\s*'[^']+'\s*\]|\[\s*"[^"]+"\s*\])"""
_PATH = re.compile(rf"(\w+)({_PARTS}*)")
_NAMED = re.compile(rf"\b(?:inputs|workflow|steps|tasks|item){_PARTS}*")
_ITEM = re.compile(rf"(?<![\w.'\"-])item(?![\w-]){_PARTS}*")
_PART = re.compile(r"""\.([\w-]+)|\[\s*'([^']+)'\s*\]|\[\s*"([^"]+)"\s*\]""")


def substituted(text: str, known: Mapping[str, str], unknown: Callable[[str], None], *, late: bool = False) -> str:
    """The text with each `{{name}}` that is known put in; the others stay, and are told to `unknown`.

    `late`: values that only a running task has (argo_late) are known too.
    """

    def one(match: "re.Match[str]") -> str:
        name = match[1].strip()
        # An expression that is one name is that name.
        if name.startswith("="):
            name = name_of(name[1:]) or name
        if name in known and (late or "\0" not in known[name]):
            return known[name]
        unknown(match[0])
        return match[0]

    # What is put in may hold a tag itself, as when an argument passes a parameter on: it was settled where it was made.
    return _TAG.sub(one, text)


def has_tag(text: str) -> bool:
    return _TAG.search(text) is not None


class Depends(NamedTuple):
    """The tasks that an expression names; `plain` says that it asks no more than that all of them succeed.

    `succeeded` are those that have to be run for it (`A.Succeeded`): a bare name takes one that `when` skips, too.
    """

    tasks: list[str]
    plain: bool
    succeeded: frozenset[str] = frozenset()


def dependencies(expression: str) -> Depends:
    """Argo's `depends`: `A && B.Succeeded` is what Helios can say; `||`, `!` and other outcomes are not."""
    at, tasks, plain, succeeded = 0, dict[str, None](), True, set[str]()
    while at < len(expression.rstrip()):
        token = _TOKEN.match(expression, at)
        if token is None:
            return Depends(list(tasks), False)
        at = token.end()
        word = token[1]
        if word in ("||", "!"):
            plain = False
        elif word not in ("&&", "(", ")"):
            name, _, outcome = word.partition(".")
            plain = plain and (not outcome or outcome in _SUCCESS)
            tasks[name] = None
            if outcome in _SUCCESS:
                succeeded.add(name)
    return Depends(list(tasks), plain, frozenset(succeeded))


def name_of(expression: str) -> str | None:
    """The variable that an expression is, in Argo's other spelling: `inputs.parameters['a-b']` is
    `inputs.parameters.a-b`."""
    match = _PATH.fullmatch(expression.strip())
    if match is None:
        return None
    return match[1] + "".join(f".{one or two or three}" for one, two, three in _PART.findall(match[2]))


def item_names(text: str) -> set[str]:
    """What a text asks of the item of a loop: `item`, `item.field`."""
    found = (name_of(name) for tag in _TAG.findall(text) for name in _ITEM.findall(tag))
    return {name for name in found if name is not None}


def without_expression(text: str) -> str:
    """A condition that is one expression, `{{= a.b == 'c' }}`, in Argo's older spelling: `{{a.b}} == 'c'`."""
    match = re.fullmatch(r"\s*\{\{\s*=(.*)\}\}\s*", text, re.DOTALL)
    if match is None or "{{" in match[1]:
        return text
    return _NAMED.sub(lambda found: f"'{{{{{name_of(found[0])}}}}}'", match[1]) if "(" not in match[1] else text


def sequence(count: int | None, start: int | None, end: int | None, form: str) -> list[str] | None:
    """The items of `withSequence`; None for a form that is not one of printf's for whole numbers."""
    first = start or 0
    if count is not None:
        numbers = range(first, first + count)
    else:
        last = end if end is not None else 0
        numbers = range(first, last + 1) if last >= first else range(first, last - 1, -1)
    if re.fullmatch(r"[^%]*%[-+ 0#]*\d*[dxXo][^%]*", form or "%d") is None:
        return None
    return [(form or "%d") % number for number in numbers]


def renamed_paths(text: str, places: Mapping[str, str]) -> tuple[str, set[str]]:
    """The text with paths put in place of others, also where longer ones begin with them; and which were there."""
    if not places:
        return text, set()
    seen: set[str] = set()
    # The longest first: /tmp/a/b before /tmp/a.
    words = "|".join(re.escape(path) for path in sorted(places, key=len, reverse=True))

    def one(match: "re.Match[str]") -> str:
        seen.add(match[0])
        return places[match[0]]

    return re.sub(rf"(?<![\w./-])(?:{words})(?![\w-]|\.\w)", one, text), seen
