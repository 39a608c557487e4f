"""What holds for every DAG and for every text."""

from typing import Any

import msgspec
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from minio import Minio
from minio.helpers import check_bucket_name

from helios.dag import Dag, TaskInput, parents, parse_dag
from helios.dag_format import DagSpec
from helios.dag_names import uri_fault
from helios.dag_problem import LIMITS, DagInvalid, DagLimits, Findings
from helios.dag_scalar import Container
from helios.dag_shape import to_spec
from helios.dag_text import Document

NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)


class QuotingDumper(yaml.SafeDumper):
    """Writes all text in quotes: PyYAML's YAML is 1.1, where 08 is text without them."""


def _in_quotes(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


QuotingDumper.add_representer(str, _in_quotes)


@st.composite
def dag_data(draw: st.DrawFn) -> dict[str, Any]:
    """A valid DAG as plain data."""
    tasks: list[dict[str, Any]] = []
    for name in draw(st.lists(NAMES, min_size=1, max_size=6, unique=True)):
        task: dict[str, Any] = {"name": name, "image": "i", "command": ["c", *draw(st.lists(TEXTS, max_size=2))]}
        task["outputs"] = draw(st.lists(NAMES.map(lambda path: f"out/{path}"), max_size=3, unique=True))
        if tasks:
            task["depends_on"] = draw(st.lists(st.sampled_from([each["name"] for each in tasks]), max_size=2))
            made = [(each["name"], output) for each in tasks for output in each["outputs"]]
            chosen = draw(st.lists(st.sampled_from(made), max_size=3)) if made else []
            task["inputs"] = [
                {"fromTask": parent, "name": output, "as": f"in{at}"} for at, (parent, output) in enumerate(chosen)
            ]
        if draw(st.booleans()):
            task["env"] = draw(st.dictionaries(st.from_regex(r"[A-Z]{1,5}", fullmatch=True), TEXTS, max_size=2))
        if draw(st.booleans()):
            task["retries"] = {"count": draw(st.integers(0, LIMITS.max_retries))}
        tasks.append(task)
    return {"dagName": draw(NAMES), "useCache": draw(st.booleans()), "tasks": draw(st.permutations(tasks))}


@settings(max_examples=60, deadline=None)
@given(dag_data())
def test_a_valid_dag_is_the_same_in_json_in_yaml_and_when_stored(data: dict[str, Any]) -> None:
    as_json = parse_dag(msgspec.json.encode(data)).dag
    as_yaml = parse_dag(yaml.dump(data, allow_unicode=True, sort_keys=False, Dumper=QuotingDumper).encode()).dag
    assert as_json == as_yaml
    assert msgspec.json.decode(msgspec.json.encode(as_json), type=Dag) == as_json


@settings(max_examples=60, deadline=None)
@given(dag_data())
def test_a_valid_dag_has_an_order_in_which_every_input_exists(data: dict[str, Any]) -> None:
    parsed = parse_dag(msgspec.json.encode(data)).dag
    made: set[tuple[str, str]] = set()
    by_name = {task.name: task for task in parsed.tasks}
    for name in parsed.graph().order:
        task = by_name[name]
        for source in task.inputs:
            assert isinstance(source, TaskInput) and source.from_task in parents(task)
            assert (source.from_task, source.name) in made
        made.update((name, output) for output in task.outputs)


SMALL = DagLimits(max_payload_bytes=4096, max_nodes=300, max_collections=100, max_entries=20, max_alias_nodes=100)

SEED = b"""\
dagName: word-count
useCache: true
tasks:
  - &base
    name: split
    image: alpine:3.20
    command: [sh, -c, "split -n l/4 corpus.txt part-"]
    inputs: [{uri: "s3://corpora/moby.txt", as: corpus.txt}]
    outputs: [part-aa, part-ab]
  - {<<: *base, name: count, depends_on: [split], retries: {count: 2}, env: {A: 1.10, B: {secret: s, key: k}}}
"""
FRAGMENTS = [
    b"&a ",
    b"*a",
    b"*base",
    b"<<: ",
    b"? ",
    b"- ",
    b": ",
    b"\t",
    b"\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"'",
    b"|\n",
]
FRAGMENTS += [
    b"!!str ",
    b"!x ",
    b"%TAG",
    b"---\n",
    b"...\n",
    b"#",
    b".nan",
    b"1e999",
    b"\xff",
    b"\0",
    b"~",
    b"0x1F",
    b"null",
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    text = draw(st.sampled_from([SEED, msgspec.json.encode(yaml.safe_load(SEED))]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + draw(st.sampled_from([b"", *FRAGMENTS])) + text[stop:]
    return text


def parses_or_is_refused_with_reasons(text: bytes) -> None:
    try:
        parsed = parse_dag(text, SMALL)
    except DagInvalid as refused:
        assert refused.problems
        assert all(problem.message for problem in refused.problems)
        msgspec.json.encode(refused.problems)
        return
    msgspec.json.encode(parsed)
    assert len(parsed.dag.graph().order) == len(parsed.dag.tasks)


@settings(max_examples=300, deadline=None)
@given(mutated())
def test_a_damaged_dag_is_read_or_refused_and_nothing_else(text: bytes) -> None:
    parses_or_is_refused_with_reasons(text)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text("{}[]:,-&*!|>'\"%@`#? \n\ta1.~", max_size=80).map(str.encode)))
def test_random_text_is_read_or_refused_and_nothing_else(text: bytes) -> None:
    parses_or_is_refused_with_reasons(text)


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(-2, 2), st.sampled_from(["", "a", "v1", "link"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["name", "fromTask", "uri", "count", "secret", "key", "value", "valueFrom", "x"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)
FIELDS = [
    "name",
    "image",
    "command",
    "args",
    "depends_on",
    "inputs",
    "outputs",
    "retries",
    "env",
    "resources",
    "type",
    "tolerations",
    "forEach",
    "when",
]


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON_VALUES)), JSON_VALUES)
def test_the_walk_that_names_misfits_agrees_with_the_conversion(task: dict[str, Any], root: Any) -> None:
    """Whatever msgspec refuses, the walk over the types names in places; what it takes, the walk does not see."""
    data = {"dagName": "d", "tasks": [task], "apiVersion": root}
    written: list[tuple[Container, str | int]] = []
    findings = Findings(LIMITS)
    spec = to_spec(Document("", False, data, written), LIMITS, findings)
    try:
        msgspec.convert(data, DagSpec)
    except msgspec.ValidationError:
        assert findings
        assert all(found.path for found in findings.kept)
    else:
        assert spec is not None and not findings


BUCKETS = st.one_of(
    st.text("ab0.-", min_size=1, max_size=8),
    st.from_regex(r"[a-z0-9.-]{3,63}", fullmatch=True),
    st.text("ab.-", max_size=5).flatmap(
        lambda middle: st.sampled_from([f"xn--{middle}", f"a{middle}-s3alias", f"a{middle}--ol-s3", f"1.2.3.{middle}4"])
    ),
)
SIGNER = Minio("127.0.0.1:9", access_key="a", secret_key="s", region="us-east-1")


@settings(max_examples=500, deadline=None)
@given(BUCKETS, st.one_of(st.just("key"), st.text(min_size=1, max_size=8)))
def test_every_object_that_is_accepted_can_be_signed_for(bucket: str, key: str) -> None:
    """The collector signs a URL for each input of a plan; a name that cannot be signed fails its task later."""
    if uri_fault(f"s3://{bucket}/{key}", LIMITS) is None:
        check_bucket_name(bucket, strict=True, s3_check=True)
        assert bucket in SIGNER.get_presigned_url("GET", bucket, key)
