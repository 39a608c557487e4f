"""Texts that are no DAG, or no text at all: refused with a reason, in bounded memory (FAULTS 9, 11)."""

import tracemalloc

import pytest

from helios.dag import parse_dag
from helios.dag_problem import LIMITS, DagInvalid, DagLimits

A_TASK = "tasks: [{name: a, image: i, command: [c]}]\n"
JSON_TASK = '"tasks": [{"name": "a", "image": "i", "command": ["c"]}]'


def problems_of(text: str | bytes, limits: DagLimits = LIMITS) -> list[str]:
    with pytest.raises(DagInvalid) as refused:
        parse_dag(text.encode() if isinstance(text, str) else text, limits)
    return [str(problem) for problem in refused.value.problems]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "the text is empty; a DAG needs dagName and tasks"),
        (b" \n\r\n\t", "the text is empty; a DAG needs dagName and tasks"),
        (b"# nothing yet\n", "the text holds only comments; a DAG needs dagName and tasks"),
        (b"dagName: d\ntasks: \xff\n", "line 2, column 8: not UTF-8: byte 0xff"),
        (b"dagName: \xed\xa0\x80\n", "line 1, column 10: not UTF-8: byte 0xed"),
        ("dagName: d\n".encode("utf-16"), "the text is UTF-16; save it as UTF-8"),
        (b"dagName: d\n--- \ndagName: e\n", "line 2: a second YAML document begins here; a file holds one DAG"),
        (b"[1, 2]", "line 1: expected a mapping with dagName and tasks, got a list"),
        (b"just words", "line 1: expected a mapping with dagName and tasks, got the text 'just words'"),
        (b"1.10", "line 1: expected a mapping with dagName and tasks, got the number 1.1"),
        (
            b"dagName: d\n\ttasks: []\n",
            "line 2, column 1: not valid YAML: a tab while scanning a plain scalar; YAML indents with spaces only",
        ),
        (
            b"dagName: d\ntasks:\n\t- name: a\n",
            "line 3, column 1: not valid YAML: a tab while scanning for the next token; YAML indents with spaces only",
        ),
        (
            b"dagName: a: b\n",
            "line 1, column 11: not valid YAML: mapping values are not allowed in this context; "
            "a value with ': ' in it needs quotes",
        ),
        (b"dagName: \xc3\xa9\n# \x01\n", "line 2, column 3: not valid YAML: control characters are not allowed"),
        (b"dagName: a\0b\n", "line 1, column 11: not valid YAML: control characters are not allowed"),
        (b'{"dagName": "d",\n "tasks": [}', "line 2, column 12: not valid JSON: Expecting value"),
        (b'{"dagName": "d"', "line 1, column 16: not valid JSON: Expecting ',' delimiter"),
        (
            b"{dagName: d",
            "line 1, column 12: not valid YAML: did not find expected ',' or '}' while parsing a flow mapping",
        ),
    ],
)
def test_what_is_no_dag_is_refused_with_the_place(text: bytes, problem: str) -> None:
    """FAULTS 9."""
    assert problems_of(text) == [problem]


def test_a_byte_order_mark_windows_line_ends_and_yaml_in_braces_are_read() -> None:
    text = "\ufeffdagName: d\r\n" + A_TASK
    assert parse_dag(text.encode()).dag == parse_dag(f"{{dagName: d, {A_TASK.strip()}}}".encode()).dag
    assert parse_dag(f'{{"dagName": d, # a comment\n{JSON_TASK},}}'.encode()).dag.dag_name == "d"


def test_duplicate_keys_are_refused_in_yaml_and_json() -> None:
    """FAULTS 9."""
    assert problems_of(f"dagName: d\n{A_TASK}dagName: e\n") == [
        "line 3, dagName: the key 'dagName' is there more than once"
    ]
    text = '{"dagName": "d",\n"tasks": [\n{"name": "a", "image": "i",\n"command": ["c"], "env": {"A": 1,\n"A": 2}}]}'
    assert problems_of(text) == ["line 5, tasks[0].env.A: the key 'A' is there more than once"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused_in_json(number: str) -> None:
    """FAULTS 9."""
    (problem,) = problems_of(f'{{"dagName": "d",\n{JSON_TASK},\n"artifactRepository": [{number}]}}')
    assert problem.startswith("line 3, artifactRepository[0]: ")


@pytest.mark.parametrize("number", [".nan", ".inf", "-.INF", "1e999"])
def test_numbers_that_are_none_are_refused_in_yaml(number: str) -> None:
    """FAULTS 9."""
    (problem,) = problems_of(f"dagName: d\n{A_TASK}artifactRepository: [{number}]\n")
    assert problem.startswith("line 3, artifactRepository[0]: ")


@pytest.mark.parametrize("number", ["9" * 19, "-" + "9" * 19, "9" * 5000, "9" * 1_000_000])
def test_huge_integers_are_refused(number: str) -> None:
    """FAULTS 9: neither 64 bits nor Python's limit of 4,300 digits is a surprise later."""
    yaml_text = f"dagName: d\ntasks: [{{name: a, image: i, command: [c], timeoutSeconds: {number}}}]\n"
    (problem,) = problems_of(yaml_text)
    assert problem.startswith("line 2, tasks[0].timeoutSeconds: a whole number of ")
    (problem,) = problems_of(f'{{"dagName": "d", {JSON_TASK[:-2]}, "timeoutSeconds": {number}}}]}}')
    assert problem.startswith("line 1, tasks[0].timeoutSeconds: a whole number of ")
    (problem,) = problems_of(f"dagName: d\n{A_TASK}artifactRepository: 0x{'F' * 5000}\n")
    assert "at most 18 are taken as a number" in problem


def test_half_characters_are_refused() -> None:
    """Redis, file systems and logs take UTF-8, in which a lone surrogate cannot be written."""
    assert problems_of('{"dagName": "d",\n' + JSON_TASK[:-2] + ',\n"args": ["\\ud800"]}]}') == [
        "line 3, tasks[0].args[0]: the text holds half a character (a lone surrogate)"
    ]
    assert parse_dag(('{"dagName": "d",' + JSON_TASK[:-2] + ', "args": ["\\ud83d\\ude00"]}]}').encode())


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{" * 100_000,
        '{"a":' * 100_000,
        '{"a":[' * 100_000,
        "- " * 100_000,
        "? " * 100_000,
        "a: [" * 100_000,
        "\n".join(" " * depth + "a:" for depth in range(3000)),
        "dagName: d\nartifactRepository: " + "[" * 200 + "]" * 200,
        '{"dagName": "d", "artifactRepository": [1.10, ' + "[" * 200 + "]" * 201 + "}",
    ],
)
def test_deep_nesting_is_refused(text: str) -> None:
    """FAULTS 9: neither a RecursionError nor a crash."""
    (problem,) = problems_of(text)
    assert "nest" in problem or "a key must be text" in problem


@pytest.mark.parametrize("value", ["yes", "on", "no", "off", "y", "'true'", "1", "~"])
def test_only_true_and_false_are_booleans(value: str) -> None:
    (problem,) = problems_of(f"dagName: d\nuseCache: {value}\n{A_TASK}")
    assert problem.startswith("line 2, useCache: expected true or false, got ")
    assert parse_dag(f"dagName: d\nuseCache: false\n{A_TASK}".encode()).dag.use_cache is False


def test_words_that_were_booleans_in_yaml_1_1_are_text() -> None:
    text = "dagName: on\ntasks: [{name: yes, image: i, command: [no, off, '2024-01-01', 12:30:00, 2024-01-01]}]\n"
    parsed = parse_dag(text.encode()).dag
    assert (parsed.dag_name, parsed.tasks[0].name) == ("on", "yes")
    assert parsed.tasks[0].command == ("no", "off", "2024-01-01", "12:30:00", "2024-01-01")


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("5: x", "line 2: a key must be text; put it in quotes: '5'"),
        ("true: x", "line 2: a key must be text; put it in quotes: 'true'"),
        ("~: x", "line 2: a key must be text; put it in quotes: '~'"),
        ("? [a]\n: x", "line 2: a key must be text, not a list"),
        ("? {a: b}\n: x", "line 2: a key must be text, not a mapping"),
    ],
)
def test_keys_are_text(key: str, problem: str) -> None:
    assert problem in problems_of(f"dagName: d\n{key}\n{A_TASK}")


@pytest.mark.parametrize(
    "text", ["dagName: !!python/object:os.system d\n", "dagName: !mine d\n", "dagName: !!binary aGk=\n"]
)
def test_tags_are_refused_and_load_nothing(text: str) -> None:
    (problem,) = problems_of(text + A_TASK)
    assert problem.startswith("line 1, dagName: the tag '")


def test_a_tag_of_text_makes_text() -> None:
    assert parse_dag(f"dagName: !!str 5\n{A_TASK}".encode()).dag.dag_name == "5"


def test_anchors_aliases_and_merge_keys_can_be_used() -> None:
    text = """\
dagName: d
tasks:
  - &base
    name: a
    image: &image alpine:3.20
    command: [c]
    env: &env {A: 1, B: 2}
  - {<<: *base, name: b, env: {<<: *env, B: 3}}
  - {<<: [{image: other}, *base], name: c, env: *env}
  - {name: d, image: *image, command: [c]}
"""
    tasks = parse_dag(text.encode()).dag.tasks
    assert [(task.name, task.image) for task in tasks] == [
        ("a", "alpine:3.20"),
        ("b", "alpine:3.20"),
        ("c", "other"),
        ("d", "alpine:3.20"),
    ]
    assert [[getattr(variable, "value", None) for variable in task.env] for task in tasks[:3]] == [
        ["1", "2"],
        ["1", "3"],
        ["1", "2"],
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("artifactRepository: *gone\n", "line 3, artifactRepository: the alias *gone has no anchor"),
        ("artifactRepository: &me [*me]\n", "line 3, artifactRepository[0]: the alias *me is inside its own anchor"),
        ("artifactRepository: {<<: 5}\n", "line 3, artifactRepository: '<<' takes a mapping or a list of mappings"),
    ],
)
def test_aliases_that_lead_nowhere_are_refused(text: str, problem: str) -> None:
    assert problems_of(f"dagName: d\n{A_TASK}{text}") == [problem]


def billion_laughs() -> str:
    lines = ["artifactRepository:", "  a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, after in zip("abcdefghijklmn", "bcdefghijklmno", strict=True):
        lines.append(f"  {after}: &{after} [{', '.join([f'*{before}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        billion_laughs(),
        "a: &a " + "x" * 1_000_000 + "\nb: [" + "*a, " * 1000 + "]\n",
        "b: &b {" + ", ".join(f"k{at}: 1" for at in range(1000)) + "}\nl:\n" + "- <<: *b\n" * 9000,
        "a0: &a0 {k: v}\n" + "".join(f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}], k{n}: v}}\n" for n in range(60)),
    ],
)
def test_alias_bombs_are_refused_in_bounded_memory(text: str) -> None:
    """FAULTS 9: an alias is counted with all it stands for, before anything is made of it."""
    tracemalloc.start()
    try:
        (problem,) = problems_of(text)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "aliases up to here stand for more than" in problem
    assert peak_bytes < 64 * 1024 * 1024


def test_a_payload_above_the_limit_is_not_even_read() -> None:
    """FAULTS 11."""
    payload = b"\xff" * (64 * 1024 * 1024)
    tracemalloc.start()
    try:
        assert problems_of(payload) == ["67,108,864 bytes; the limit is 16,777,216 bytes"]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1024 * 1024


@pytest.mark.parametrize(
    ("limits", "text", "problem"),
    [
        (DagLimits(max_collections=3), "[[], [], []]", "line 1, [2]: more than 3 lists and mappings"),
        (DagLimits(max_collections=3), '{"a": [[], [], []]}', "more than 3 lists and mappings"),
        (DagLimits(max_nodes=3), "[a, b, c]", "line 1, [2]: more than 3 values"),
        (DagLimits(max_nodes=3), '{"a": [1, 2, ",,,,", 4]}', "more than 3 values"),
        (DagLimits(max_entries=2), "[a, b, c]", "line 1: more than 2 entries in one list or mapping"),
        (DagLimits(max_entries=2), "{a: 1, b: 2, c: 3}", "line 1: more than 2 entries in one list or mapping"),
        (DagLimits(max_entries=2), '{"a": 1, "b": 2, "c": 3}', "more than 2 entries in one list or mapping"),
        (
            DagLimits(max_entries=3),
            '{"dagName": "d",\n' + JSON_TASK.replace('["c"]', '["c", "d", "e", "f"]') + "}",
            "line 2, tasks[0].command: more than 3 entries in one list or mapping",
        ),
    ],
)
def test_texts_of_too_many_parts_are_refused(limits: DagLimits, text: str, problem: str) -> None:
    """Work and memory are bounded by these counts, whatever the text."""
    assert problems_of(text, limits) == [problem]


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n", "\x85", "\u2028", "\u2029"])
def test_many_tag_directives_are_refused_before_libyaml_compares_them_all(line_end: str) -> None:
    text = line_end.join(f"%TAG !a{at}! x" for at in range(17)) + f"{line_end}---\n"
    assert problems_of(text) == ["too many YAML directives (%TAG)"]


def test_texts_that_only_mention_directives_are_read() -> None:
    args = ", ".join(["'%TAG'"] * 20)
    assert parse_dag(f"%YAML 1.2\n---\ndagName: d\ntasks: [{{name: a, image: i, command: [{args}]}}]\n".encode())


def test_messages_escape_and_shorten_what_they_quote() -> None:
    """A problem is printed on terminals: what it quotes can neither steer nor flood them."""
    (problem,) = problems_of('{"dagName": "\\u001b[31m' + "x" * 10_000 + '", ' + JSON_TASK + "}")
    assert "\x1b" not in problem
    assert len(problem) < 300
