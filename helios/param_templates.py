"""Values of parameters that are filled in when something comes: `${event.order.id}`, `${schedule.date}`.

No I/O happens here. What is filled in is text and is never looked through again, as with `${params.NAME}`.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache


@cache
def _reference(root: str) -> re.Pattern[str]:
    return re.compile(rf"(\$?)\$\{{{root}\.([^{{}}]*)\}}")


def fill(template: str, look_up: Mapping[str, Callable[[str], str]]) -> str:
    """The template with `${ROOT.PATH}` replaced by what its root's function says of the path; `$${ROOT.…}` is the text
    itself. Lets pass what those raise.
    """
    pattern = _reference(f"({'|'.join(map(re.escape, look_up))})")

    def found(match: re.Match[str]) -> str:
        escape, root, path = match.groups()
        return match[0][1:] if escape else look_up[root](path)

    return pattern.sub(found, template)
