"""Values that Argo knows only while a workflow runs, and how a task of Helios gets at them. No I/O happens here.

Argo puts what a task printed (`outputs.result`), wrote (`outputs.parameters`) or ended with (`exitCode`, `status`) into
the texts of later tasks. In Helios what a task leaves is a file: the one that makes the value has it as an output, the
one that uses it as an input, and a few lines of sh around its command put the file's text where Argo would have put it.
`when` is decided by the same lines, which end the task at once where it does not hold.

The items of a loop over such a value are Helios' to put in, by the task's `forEach`: `${item}` stands in the command,
or, where there are lines around it, in a variable that they read. No text of an item is ever a part of the lines.

Until all calls are laid out such a value stands in the texts as a mark, `\\0NUMBER\\0`: no text of a workflow has a
NUL.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from cli.imports.argo_when import Condition, shell_test
from helios.dag_binding import escaped

_MARK = re.compile(r"\0(\d+)\0")
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
MARK = "\0"
_BEHIND_A_DOLLAR = "$" + MARK
"""Where Helios cannot put an item in: `$${item}` is the text itself."""
OF_THE_TASK = {"result": "argo/result", "exitCode": "argo/exit-code", "status": "argo/status"}
"""Where a task leaves what it printed, its exit code and how it ended, by Argo's words for them."""


class Late(NamedTuple):
    """One value: a file that `task` leaves at `path`, what sh makes of `expression`, or what Helios puts in for `item`.
    `label`: how Argo spells it."""

    label: str
    task: str = ""
    path: str = ""
    expression: str = ""
    item: str = ""


class Loop(NamedTuple):
    """What a task is made for each item of; `when`: of those for which that holds, in Helios' words."""

    items: Late
    when: str = ""


@dataclass(slots=True)
class Around:
    """What a task has besides its command, and what has to happen around that."""

    loop: Loop | None = None
    guards: tuple[Condition, ...] = ()
    """The task does nothing where one of them does not hold."""
    may_fail: bool = False
    """It succeeds even if its command fails."""
    captures: set[str] = field(default_factory=set[str])
    """Which of OF_THE_TASK are asked for."""
    files: dict[str, str] = field(default_factory=dict[str, str])
    """Texts to be written before it starts, by path."""
    folders: list[str] = field(default_factory=list[str])
    """To be made before it starts."""
    defaults: dict[str, str] = field(default_factory=dict[str, str])
    """What an output holds that the command did not write."""
    copies: dict[str, str] = field(default_factory=dict[str, str])
    """Where the command leaves an output that it does not name, by the output's path."""

    @property
    def nothing(self) -> bool:
        before = self.guards or self.files or self.folders
        return not before and not self.may_fail and not self.looks_back

    @property
    def looks_back(self) -> bool:
        """Something is to be done after the command."""
        return bool(self.captures or self.defaults or self.copies)


@dataclass(slots=True)
class LateValues:
    found: list[Late] = field(default_factory=list[Late])
    numbers: dict[Late, int] = field(default_factory=dict[Late, int])

    def mark(self, late: Late) -> str:
        """A text that stands for the value."""
        number = self.numbers.setdefault(late, len(self.found))
        if number == len(self.found):
            self.found.append(late)
        return f"\0{number}\0"

    def within(self, text: str) -> list[Late]:
        return [self.found[int(number)] for number in _MARK.findall(text)]

    def of_items(self, known: Mapping[str, str]) -> dict[str, str]:
        """Those of the texts in which no other values are than items, which Helios puts in anywhere."""
        return {name: text for name, text in known.items() if all(late.item for late in self.within(text))}

    def put(self, text: str) -> str:
        """A text of a task with `forEach`, in which only items are still to be put in."""
        pieces = _MARK.split(text)
        return "".join(
            self.found[int(piece)].item if at % 2 else escaped(piece, has_items=True) for at, piece in enumerate(pieces)
        )

    def in_when(self, text: str) -> str | None:
        """A word of Helios' `when`; None where that cannot have it."""
        if not takes_items(text) or not all(late.item for late in self.within(text)):
            return None
        put = self.put(text)
        quote = '"' if "'" in put else "'"
        return None if quote in put else f"{quote}{put}{quote}"

    def as_argo(self, text: str) -> str:
        """The text with what Argo has in place of the marks."""
        return _MARK.sub(lambda match: self.found[int(match[1])].label, text)


def takes_items(text: str) -> bool:
    return _BEHIND_A_DOLLAR not in text


def put_around(tasks: Sequence[dict[str, Any]], around: Mapping[str, Around], values: LateValues) -> set[str]:
    """Make of the marks inputs, outputs and lines of sh. Returns the tasks that need a sh of which they had none."""
    by_name = {task["name"]: task for task in tasks}
    used = {task["name"]: _used(task, around[task["name"]], values) for task in tasks}
    for name, lates in used.items():
        loop = around[name].loop
        for late in (*lates, *([loop.items] if loop else ())):
            kind = next((kind for kind, path in OF_THE_TASK.items() if path == late.path), None)
            if kind is not None:
                around[late.task].captures.add(kind)
    in_need: set[str] = set()
    for name, task in by_name.items():
        lates, own = used[name], around[name]
        if own.captures:
            places = [OF_THE_TASK[each] for each in OF_THE_TASK if each in own.captures]
            task["outputs"] = list(dict.fromkeys([*task.get("outputs", ()), *places]))
        files = [late for late in lates if late.task]
        if files:
            task["inputs"] = [*task.get("inputs", ()), *(_input(late) for late in files)]
            task["depends_on"] = [each for each in task.get("depends_on", ()) if each not in {f.task for f in files}]
            if not task["depends_on"]:
                del task["depends_on"]
        if not own.nothing or not all(late.item for late in lates) or not all(map(takes_items, _texts(task))):
            if not _runs_sh(task):
                in_need.add(name)
            _wrap(task, own, lates, values)
        _put_in(task, escaped if own.loop is None else values.put)
    return in_need


def _put_in(task: dict[str, Any], put: Callable[[str], str]) -> None:
    task["image"] = put(task["image"])
    for words in ("command", "args"):
        if words in task:
            task[words] = [put(each) for each in task[words]]
    for variable, value in task.get("env", {}).items():
        if isinstance(value, str):
            task["env"][variable] = put(value)
    for each in task.get("inputs", ()):
        if "uri" in each:
            each["uri"] = put(each["uri"])


def _texts(task: dict[str, Any]) -> list[str]:
    values = [value for value in task.get("env", {}).values() if isinstance(value, str)]
    return [*task["command"], *task.get("args", ()), *values]


def _used(task: dict[str, Any], own: Around, values: LateValues) -> list[Late]:
    texts = [*_texts(task), *(guard.text for guard in own.guards), *own.files.values(), *own.defaults.values()]
    return list(dict.fromkeys(late for text in texts for late in values.within(text)))


def _runs_sh(task: dict[str, Any]) -> bool:
    words = [*task["command"], *task.get("args", ())]
    return bool(words) and words[0].rpartition("/")[2] in ("sh", "bash", "ash", "dash", "zsh")


def _place(late: Late) -> str:
    """Where the task that uses a value has its file. What the other's own files are called is not known to clash."""
    own = late.path in OF_THE_TASK.values()
    return f"argo/{late.task}/{late.path.rpartition('/')[2] if own else f'outputs/{late.path}'}"


def _input(late: Late) -> dict[str, str]:
    return {"fromTask": late.task, "name": late.path, "as": _place(late)}


def _word(path: str) -> str:
    """A path as a word of sh; one that begins with a dash is no option."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def _words(paths: Sequence[str]) -> str:
    return " ".join(map(_word, paths))


def _wrap(task: dict[str, Any], own: Around, lates: Sequence[Late], values: LateValues) -> None:
    """Paths are relative: a command starts in its task's folder, wherever that is."""
    free = (name for number in count(1) if (name := f"_h{number}") not in task.get("env", {}))
    names = dict(zip(lates, free, strict=False))

    def quoted(text: str) -> str:
        """A word of sh that is the text, with values put in as they are."""
        pieces = _MARK.split(text)
        words = [
            f'"${names[values.found[int(piece)]]}"' if at % 2 else shlex.quote(piece) if piece else ""
            for at, piece in enumerate(pieces)
        ]
        return "".join(words) or "''"

    lines = [
        f"{name}={late.expression or f'$(cat {_word(_place(late))})'}" for late, name in names.items() if not late.item
    ]
    outputs: list[str] = task.get("outputs", [])
    made = [f": > {_word(path)}" for path in outputs]
    folders = list(dict.fromkeys(path.rpartition("/")[0] for path in [*outputs, *own.files] if "/" in path))
    if own.guards:
        test = " && ".join(f"{{ {shell_test(guard, quoted)}; }}" for guard in own.guards)
        skip = [f"if ! {{ {test}; }}; then", "  echo 'skipped: its condition does not hold'"]
        skip += [f"  mkdir -p {_words(folders)}"] if folders else []
        lines += [*skip, *(f"  {each}" for each in made), "  exit 0", "fi"]
    made_before = list(dict.fromkeys([*own.folders, *(p.rpartition("/")[0] for p in own.files if "/" in p)]))
    if own.captures:
        made_before.append("argo")
    if made_before:
        lines.append(f"mkdir -p {_words(made_before)}")
    lines += [f"printf %s {quoted(text)} > {_word(path)}" for path, text in own.files.items()]
    env: dict[str, Any] = task.get("env", {})
    odd: list[str] = []
    for variable, value in list(env.items()):
        # Some shells hand on no variable with a name that is not theirs.
        is_odd = _VARIABLE.fullmatch(variable) is None
        if isinstance(value, str) and is_odd:
            odd.append(f"{shlex.quote(variable)}={quoted(value)}")
            del env[variable]
        elif isinstance(value, str) and MARK in value:
            lines.append(f"export {variable}={quoted(value)}")
            del env[variable]
    env |= {name: values.mark(late) for late, name in names.items() if late.item}
    task.pop("env", None)
    if env:
        task["env"] = env
    words = [quoted(word) for word in [*task["command"], *task.pop("args", ())]]
    command = " ".join(["env", *odd, *words] if odd else words)
    if not own.may_fail and not own.looks_back:
        lines.append(f"exec {command}")
    else:
        lines += _afterwards(command, own, outputs, quoted)
    task["command"] = ["sh", "-c", "\n".join(lines)]


def _afterwards(command: str, own: Around, outputs: Sequence[str], quoted: Callable[[str], str]) -> list[str]:
    result = OF_THE_TASK["result"]
    printed = "result" in own.captures
    lines = ["_hcode=0", f"{command}{f' > {result}' if printed else ''} || _hcode=$?"]
    if printed:
        lines.append(f"cat {result}")
    if "exitCode" in own.captures:
        lines.append(f'printf %s "$_hcode" > {OF_THE_TASK["exitCode"]}')
    if "status" in own.captures:
        lines.append(f'if [ "$_hcode" = 0 ]; then printf Succeeded; else printf Failed; fi > {OF_THE_TASK["status"]}')
    for path, origin in own.copies.items():
        copy = f"cp -R {_word(origin)} {_word(path)}"
        lines.append(f'[ "$_hcode" != 0 ] || [ ! -e {_word(origin)} ] || {copy} || _hcode=$?')
    for path, text in own.defaults.items():
        lines.append(f"[ -e {_word(path)} ] || printf %s {quoted(text)} > {_word(path)}")
    if not own.may_fail:
        return [*lines, 'exit "$_hcode"']
    for path in outputs:
        if path not in OF_THE_TASK.values() and path not in own.defaults:
            name = _word(path)
            folder = path.rpartition("/")[0]
            make = f"mkdir -p {_word(folder)} && " if folder else ""
            lines.append(f"[ -e {name} ] || {{ {make}: > {name}; }}")
    return [*lines, '[ "$_hcode" = 0 ] || echo "failed with $_hcode, which its workflow allows" >&2', "exit 0"]
