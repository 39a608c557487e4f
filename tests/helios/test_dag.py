"""The rules of a DAG: what is accepted and how it is read, what is refused and how that is said."""

from typing import Any

import msgspec
import pytest

from helios.dag import (
    Dag,
    EnvSecret,
    EnvValue,
    ExternalInput,
    Memoize,
    Task,
    TaskInput,
    parents,
    parse_dag,
)
from helios.dag_problem import LIMITS, DagInvalid, DagLimits
from helios.dag_written import written


def task(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "alpine:3.20", "command": ["true"], **fields}


def dag(*tasks: dict[str, Any], **fields: Any) -> bytes:
    return msgspec.json.encode({"dagName": "d", "tasks": tasks, **fields})


def problems_of(text: bytes, limits: DagLimits = LIMITS) -> list[str]:
    with pytest.raises(DagInvalid) as refused:
        parse_dag(text, limits)
    return [f"{problem.path}: {problem.message}" for problem in refused.value.problems]


def only_problem_of(text: bytes, limits: DagLimits = LIMITS) -> str:
    (problem,) = problems_of(text, limits)
    return problem


WORD_COUNT = b"""\
dagName: word-count
useCache: true
tasks:
  - name: split
    image: alpine:3.20
    command: [sh, -c, "split -n l/4 corpus.txt part-"]
    inputs: [{uri: "s3://corpora/moby.txt", as: corpus.txt}]
    outputs: [part-aa, part-ab]
  - name: count
    image: alpine:3.20
    command: [sh, -c, "wc -w part-aa > n"]
    depends_on: [split]
    inputs: [{fromTask: split, name: part-aa}]
    outputs: [n]
    retries: {count: 2}
"""


def test_the_documented_dag_is_read_into_complete_tasks() -> None:
    parsed = parse_dag(WORD_COUNT)
    assert parsed.warnings == []
    assert parsed.dag == Dag(
        dag_name="word-count",
        use_cache=True,
        tasks=(
            Task(
                name="split",
                image="alpine:3.20",
                command=("sh", "-c", "split -n l/4 corpus.txt part-"),
                inputs=(ExternalInput("s3://corpora/moby.txt", "corpus.txt"),),
                outputs=("part-aa", "part-ab"),
            ),
            Task(
                name="count",
                image="alpine:3.20",
                command=("sh", "-c", "wc -w part-aa > n"),
                depends_on=("split",),
                inputs=(TaskInput("split", "part-aa", "part-aa"),),
                outputs=("n",),
                retries=2,
            ),
        ),
    )


def test_every_field_reaches_the_normalised_task() -> None:
    text = dag(
        task(
            args=["x"],
            env={"PLAIN": "v", "FROM_SECRET": {"secret": "s3-login", "key": "password"}},
            resources={"requests": {"cpu": 0.5, "memory": "1Gi"}, "limits": {"cpu": 1, "nvidia.com/gpu": 1}},
            timeoutSeconds=60,
            nodeSelector={"kubernetes.io/arch": "amd64"},
            tolerations=[{"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}],
            serviceAccountName="own",
            memoize={"maxAge": "7d", "verify": 0.02},
            inputs=[{"uri": "s3://bkt/x/y.csv", "mode": "copy", "verify": "always"}],
            outputs=["out/y.csv"],
        ),
        task("b"),
        useCache=False,
        serviceAccountName="shared",
    )
    parsed = parse_dag(text).dag
    first, second = parsed.tasks
    assert parsed.use_cache is False
    assert first.args == ("x",)
    assert first.env == (EnvValue("PLAIN", "v"), EnvSecret("FROM_SECRET", "s3-login", "password"))
    assert (first.requests, first.limits) == ({"cpu": "0.5", "memory": "1Gi"}, {"cpu": "1", "nvidia.com/gpu": "1"})
    assert first.timeout_seconds == 60
    assert (first.memoize, second.memoize) == (Memoize(max_age_seconds=604_800, verify=0.02), None)
    assert first.node_selector == {"kubernetes.io/arch": "amd64"}
    assert first.tolerations[0].toleration_seconds == 30
    assert (first.service_account_name, second.service_account_name) == ("own", "shared")
    (source,) = first.inputs
    assert source == ExternalInput("s3://bkt/x/y.csv", "y.csv", "copy", "always")
    assert isinstance(source, ExternalInput) and (source.bucket, source.key) == ("bkt", "x/y.csv")


def test_a_normalised_dag_survives_its_own_json() -> None:
    """Tasks are stored one by one in Redis and read back as they were."""
    parsed = parse_dag(WORD_COUNT).dag
    assert msgspec.json.decode(msgspec.json.encode(parsed), type=Dag) == parsed
    for each in parsed.tasks:
        assert msgspec.json.decode(msgspec.json.encode(each), type=Task) == each


def test_json_and_yaml_are_read_alike() -> None:
    import yaml

    as_json = msgspec.json.encode(yaml.safe_load(WORD_COUNT))
    assert parse_dag(as_json).dag == parse_dag(WORD_COUNT).dag


def test_parents_are_what_depends_on_and_inputs_name_each_once() -> None:
    text = dag(
        task("a", outputs=["x"]),
        task("b", outputs=["y"]),
        task(
            "c",
            depends_on=["b", "b"],
            inputs=[{"fromTask": "a", "name": "x"}, {"fromTask": "b", "name": "y"}, {"uri": "s3://bkt/z"}],
        ),
    )
    parsed = parse_dag(text).dag
    assert parents(parsed.tasks[2]) == ("b", "a")
    assert parsed.graph().children == {"a": ("c",), "b": ("c",), "c": ()}


FIRST_VERSION = b"""\
apiVersion: v1
dagName: three-in-a-row
useCache: true
artifactRepository: {s3: {bucket: artifacts, endpoint: "minio:9000"}}
serviceAccountName: workflow
tasks:
  - name: generate-data
    type: command
    image: python:3.11
    command: ["python", "-c"]
    args: ["print(1)"]
    env:
      - {name: SIZE, value: 10}
      - {name: EMPTY}
      - {name: TOKEN, valueFrom: {secretKeyRef: {name: api, key: token}}}
    outputs: [data.txt]
  - name: process-data
    type: command
    image: python:3.11
    command: [cat, data.txt]
    depends_on: [generate-data]
    inputs: [{fromTask: generate-data, name: data.txt}]
    outputs: [result.txt]
    retries: {count: 1}
  - name: report
    type: command
    image: python:3.11
    command: [cat, result.txt]
    depends_on: [process-data]
    inputs:
      - fromTask: process-data
        name: result.txt
"""


def test_a_dag_of_the_first_version_runs_as_it_is_with_warnings() -> None:
    """Issue 3, point 7."""
    parsed = parse_dag(FIRST_VERSION)
    assert [(warning.path, warning.line) for warning in parsed.warnings] == [
        ("artifactRepository", 4),
        ("serviceAccountName", 5),
        ("tasks[0].env", 12),
    ]
    assert parsed.dag.tasks[0].env == (
        EnvValue("SIZE", "10"),
        EnvValue("EMPTY", ""),
        EnvSecret("TOKEN", "api", "token"),
    )
    assert parsed.dag.graph().order == ("generate-data", "process-data", "report")


def test_variables_that_helios_sets_are_dropped_with_a_warning() -> None:
    parsed = parse_dag(dag(task(env={"HELIOS_RUN_ID": "mine", "HELIOS_OTHER": "kept"})))
    assert parsed.dag.tasks[0].env == (EnvValue("HELIOS_OTHER", "kept"),)
    assert [warning.path for warning in parsed.warnings] == ["tasks[0].env.HELIOS_RUN_ID"]


def test_scalars_of_env_and_resources_keep_the_way_they_are_written() -> None:
    text = b"""\
dagName: d
tasks:
  - name: a
    image: i
    command: [c]
    env: &env {V: 1.10, HEX: 0x1F, ZERO: 007, EXP: 1e3, T: true, P: True, ON: on, DAY: 2024-01-01, BIG: 1_000, N: 5}
    resources: {requests: {cpu: 0.50, memory: 1e9}}
  - {name: b, image: i, command: [c], env: {<<: *env, N: 6}}
"""
    first, second = parse_dag(text).dag.tasks
    written = {"V": "1.10", "HEX": "0x1F", "ZERO": "007", "EXP": "1e3", "T": "true", "P": "True", "ON": "on"}
    written |= {"DAY": "2024-01-01", "BIG": "1_000"}
    assert {v.name: v.value for v in first.env if isinstance(v, EnvValue)} == written | {"N": "5"}
    assert {v.name: v.value for v in second.env if isinstance(v, EnvValue)} == written | {"N": "6"}
    assert first.requests == {"cpu": "0.50", "memory": "1e9"}
    (of_json,) = parse_dag(dag(task(env={"V": 1.5})).replace(b"1.5", b"1.10")).dag.tasks
    assert of_json.env == (EnvValue("V", "1.10"),)


def test_a_number_where_text_is_wanted_is_quoted_back_as_it_is_written() -> None:
    """`1.10` put in quotes as `1.1` would be another version."""
    text = b"dagName: 08\ntasks: [{name: 1.10, image: i, command: [c, 0x1F, True], timeoutSeconds: 0x3C}]\n"
    assert problems_of(text) == [
        "dagName: expected text, got the number 08; put it in quotes: '08'",
        "tasks[0].name: expected text, got the number 1.10; put it in quotes: '1.10'",
        "tasks[0].command[1]: expected text, got the number 0x1F; put it in quotes: '0x1F'",
        "tasks[0].command[2]: expected text, got the boolean True; put it in quotes: 'True'",
    ]
    assert (
        parse_dag(text.replace(b"08", b"d").replace(b"1.10", b"a").replace(b", 0x1F, True", b""))
        .dag.tasks[0]
        .timeout_seconds
        == 60
    )


def test_empty_optional_fields_are_as_if_absent() -> None:
    text = b"dagName: d\ntasks:\n - name: a\n   image: i\n   command: [c]\n   inputs:\n   outputs:\n   env:\n"
    assert parse_dag(text).dag.tasks[0] == Task(name="a", image="i", command=("c",))


def test_all_problems_are_listed_with_their_lines() -> None:
    """FAULTS 10: the whole DAG is refused with everything that is wrong, whichever kind it is of."""
    text = b"""\
dagName: word-count
useCache: yes
tasks:
  - name: split
    image: alpine:3.20
    command: [sh, -c, split, 5]
    outputs: [part-aa, ../up]
  - name: count
    imag: alpine:3.20
    command: [wc]
    depends_on: [splt]
    inputs: [{fromTask: split, name: part-a}]
    retries: 2
  - name: count
    image: alpine
"""
    with pytest.raises(DagInvalid) as refused:
        parse_dag(text)
    assert [str(problem) for problem in refused.value.problems] == [
        "line 2, useCache: expected true or false, got the text 'yes'; write true: in YAML 1.2 'yes' is text",
        "line 6, tasks[0].command[3]: expected text, got the number 5; put it in quotes: '5'",
        "line 7, tasks[0].outputs[1]: '../up' has the part '..', which could lead elsewhere",
        "line 8, tasks[1].image: is required",
        "line 9, tasks[1].imag: unknown field 'imag'; did you mean 'image'?",
        "line 11, tasks[1].depends_on[0]: no task is named 'splt'; did you mean 'split'?",
        "line 12, tasks[1].inputs[0].name: the task 'split' has no output 'part-a'; did you mean 'part-aa'?",
        "line 13, tasks[1].retries: expected a mapping, got the number 2; write {count: 2}",
        "line 14, tasks[2].command: is required: Helios starts the command itself and does not know the image's own "
        "entrypoint",
        "line 14, tasks[2].name: 'count' is the name of tasks[1] too",
    ]
    assert str(refused.value).count("\n") == 9


def test_lines_are_found_in_json_text_too() -> None:
    text = b'{"dagName": "d",\n "tasks": [\n  {"name": "\\u0061", "image": "i", "command": ["c"]},\n' + (
        b'  {"name": "b", "image": "i",\n   "command": ["}{"],\n   "depends_on": ["x\\ud83d\\ude00"]}\n]}'
    )
    with pytest.raises(DagInvalid) as refused:
        parse_dag(text)
    assert str(refused.value) == "line 6, tasks[1].depends_on[0]: no task is named 'x😀'"


def test_problems_beyond_the_first_hundred_are_counted() -> None:
    found = problems_of(dag(*(task(f"t{at}", depends_on=["gone"]) for at in range(250))))
    assert len(found) == 101
    assert found[-1] == ": … and 150 more problems"


def test_suggestions_are_bounded_in_number_and_do_not_compare_with_every_task() -> None:
    limits = DagLimits(max_suggestions=3)
    found = problems_of(dag(*(task(f"t{at}", depends_on=[f"t{at}x"]) for at in range(50))), limits)
    assert sum("did you mean" in problem for problem in found) == 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "is empty"),
        ("-a", "begins with '-'"),
        ("a b", "a space at position 2"),
        ("a/b", "'/' at position 2"),
        ("../a", "'/' at position 3"),
        ("..", "begins with '.'"),
        ("a\0b", "U+0000 at position 2"),
        ("p\u0430y", "'\u0430' (CYRILLIC SMALL LETTER A) at position 2"),
        ("a\u200bb", "U+200B (ZERO WIDTH SPACE) at position 2"),
        ("\uff41", "(FULLWIDTH LATIN SMALL LETTER A) at position 1"),
        ("n" * 300, "has 300 characters; the limit is"),
    ],
)
def test_names_are_short_and_ascii_and_the_offending_character_is_named(name: str, reason: str) -> None:
    """FAULTS 12, for the names of tasks and of the DAG."""
    assert reason in only_problem_of(dag(task(name)))
    assert reason in only_problem_of(dag(task(), dagName=name))


def test_names_of_the_greatest_length_are_accepted() -> None:
    assert parse_dag(dag(task("n" * LIMITS.max_task_name_chars), dagName="n" * LIMITS.max_dag_name_chars))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "is empty"),
        ("/etc/passwd", "is absolute"),
        (".helios", "in .helios, where Helios has files of its own"),
        (".helios/control/exit", "in .helios, where Helios has files of its own"),
        ("..", "the part '..'"),
        ("a/../b", "the part '..'"),
        ("./a", "the part '.'"),
        ("a//b", "an empty part"),
        ("a/", "an empty part"),
        ("a\\b", "'\\\\' in"),
        ("a\0", "U+0000"),
        ("a\nb", "U+000A"),
        ("a\u202eb", "U+202E (RIGHT-TO-LEFT OVERRIDE)"),
        ("\uff0e\uff0e/a", "FULLWIDTH FULL STOP"),
        ("a\u2215b\uff0fc", "FULLWIDTH SOLIDUS"),
        ("re\u0301sume\u0301", "NFC"),
        ("n" * 256, "a part of more than 255 bytes"),
        ("é" * 128, "a part of more than 255 bytes"),
        ("/".join(["n" * 200] * 3), "602 bytes"),
        ("a/" * 40 + "a", "more than 32 parts"),
    ],
)
def test_paths_stay_below_the_artifacts_folder(path: str, reason: str) -> None:
    """FAULTS 12, for the paths of inputs and outputs."""
    assert reason in only_problem_of(dag(task(outputs=[path])))
    assert reason in only_problem_of(dag(task(inputs=[{"uri": "s3://bkt/k", "as": path}])))


def test_paths_may_have_folders_dots_spaces_and_letters_of_any_script() -> None:
    outputs = [
        ".hidden",
        ".heliosphere",
        "a/.helios",
        "a b.txt",
        "out/part.0/x..y",
        "résumé.csv",
        "данные/файл",
        "n" * 255,
    ]
    assert parse_dag(dag(task(outputs=outputs))).dag.tasks[0].outputs == tuple(outputs)


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("", "not of the form"),
        ("http://x/y", "not of the form"),
        ("S3://bkt/y", "not of the form"),
        ("s3:///y", "not a bucket name"),
        ("s3://Bkt/y", "not a bucket name"),
        ("s3://ab/y", "3 to 63"),
        ("s3://" + "b" * 64 + "/y", "3 to 63"),
        ("s3://a..b/y", "not a bucket name"),
        ("s3://a.-b/y", "side by side"),
        ("s3://a-.b/y", "side by side"),
        ("s3://xn--abc/y", "reserved"),
        ("s3://abc-s3alias/y", "reserved"),
        ("s3://abc--ol-s3/y", "reserved"),
        ("s3://bkt/ ", "names no object"),
        ("s3://10.0.0.1/y", "IP address"),
        ("s3://user:pw@bkt/y", "not a bucket name"),
        ("s3://bkt", "names no object"),
        ("s3://bkt/", "names no object"),
        ("s3://bkt/folder/", "names a folder"),
        ("s3://bkt/a//b", "an empty part"),
        ("s3://bkt/../b", "the part '..'"),
        ("s3://bkt/a?versionId=1", "a query or a fragment"),
        ("s3://bkt/a\0", "U+0000"),
        ("s3://bkt/" + "k/" * 600 + "k", "the limit is 1024"),
    ],
)
def test_external_inputs_are_objects_of_s3(uri: str, reason: str) -> None:
    problem = only_problem_of(dag(task(inputs=[{"uri": uri}])))
    assert problem.startswith("tasks[0].inputs[0].uri: ")
    assert reason in problem


def test_an_object_whose_name_makes_no_path_can_be_placed_with_as() -> None:
    long = "s3://bkt/" + "k" * 300
    assert "give it another path with 'as'" in only_problem_of(dag(task(inputs=[{"uri": long}])))
    assert parse_dag(dag(task(inputs=[{"uri": long, "as": "k"}])))


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({}, "tasks[1].inputs[0]: needs fromTask and name, or uri"),
        ({"name": "x"}, "tasks[1].inputs[0]: needs fromTask and name, or uri"),
        ({"fromTask": "a"}, "tasks[1].inputs[0].name: is required: which output of 'a' is it"),
        (
            {"fromTask": "a", "name": "x", "uri": "s3://bkt/x"},
            "tasks[1].inputs[0]: has uri and fromTask or name; an input is one or the other",
        ),
        (
            {"fromTask": "A", "name": "x"},
            "tasks[1].inputs[0].fromTask: no task is named 'A'",
        ),
        (
            {"fromTask": "a", "name": "x2"},
            "tasks[1].inputs[0].name: the task 'a' has no output 'x2'; did you mean 'x1'?",
        ),
        (
            {"fromTask": "a", "name": "x1", "mode": "lnk"},
            "tasks[1].inputs[0].mode: expected 'copy' or 'link', got the text 'lnk'; did you mean 'link'?",
        ),
        (
            {"fromTask": "a", "name": "x1", "from": "a"},
            "tasks[1].inputs[0].from: unknown field 'from'; the fields here are fromTask, name, uri, as, mode, verify",
        ),
    ],
)
def test_an_input_names_one_source_that_exists(source: dict[str, str], problem: str) -> None:
    assert only_problem_of(dag(task("a", outputs=["x1"]), task("b", inputs=[source]))) == problem


@pytest.mark.parametrize(
    ("places", "outputs", "reason"),
    [
        (["x", "x"], [], "inputs[1]: is placed at 'x', as inputs[0] is; use 'as'"),
        (["x", "x/y"], [], "inputs[0]: is placed at 'x', which inputs[1] needs as a folder; use 'as'"),
        (["x/y/z", "x.y", "x/y"], [], "inputs[2]: is placed at 'x/y', which inputs[0] needs as a folder; use 'as'"),
        (["x"], ["x"], "outputs[0]: 'x' is where inputs[0] is placed; inputs cannot be written to"),
        (["x/y"], ["x"], "outputs[0]: 'x' is the folder in which inputs[0] is placed"),
        (["x"], ["x/y"], "outputs[0]: 'x/y' lies in 'x', where inputs[0] is placed"),
        ([], ["x", "x"], "outputs[1]: 'x' is listed more than once"),
    ],
)
def test_no_two_files_are_in_each_others_way(places: list[str], outputs: list[str], reason: str) -> None:
    inputs = [{"uri": "s3://bkt/k", "as": place} for place in places]
    assert only_problem_of(dag(task(inputs=inputs, outputs=outputs))) == f"tasks[0].{reason}"


def test_files_side_by_side_are_not_in_each_others_way() -> None:
    inputs = [{"uri": "s3://bkt/k", "as": place} for place in ("x/y", "x/z", "x-y", "x.y", "xy")]
    assert parse_dag(dag(task(inputs=inputs, outputs=["x/w", "out", "out/part"])))


def test_a_task_that_waits_for_itself_is_refused() -> None:
    """FAULTS 10."""
    text = dag(task("a", depends_on=["a"], outputs=["o"]), task("b", outputs=["o"], inputs=[]))
    assert only_problem_of(text) == "tasks[0].depends_on[0]: the task 'a' waits for itself"


def test_cycles_are_named_in_full_each_once() -> None:
    """FAULTS 10."""
    text = dag(
        task("a", depends_on=["c"], outputs=["o"]),
        task("b", inputs=[{"fromTask": "a", "name": "o"}]),
        task("c", depends_on=["b"]),
        task("x", depends_on=["y"]),
        task("y", depends_on=["x"]),
        task("below", depends_on=["y", "c"]),
    )
    assert problems_of(text) == ["tasks[0]: cycle: a -> b -> c -> a", "tasks[3]: cycle: x -> y -> x"]


def test_a_knot_with_exponentially_many_cycles_gives_bounded_problems() -> None:
    names = [f"t{at}" for at in range(60)]
    found = problems_of(dag(*(task(name, depends_on=[n for n in names if n != name]) for name in names)))
    assert len(found) == LIMITS.max_problems + 1


def test_a_long_cycle_is_shown_with_its_middle_left_out() -> None:
    tasks = [task(f"t{at}", depends_on=[f"t{(at - 1) % 5000}"]) for at in range(5000)]
    problem = only_problem_of(dag(*tasks))
    assert "t49 -> … 4,901 more … -> " in problem
    assert len(problem) < 2000


def test_duplicate_names_and_empty_tasks_are_refused() -> None:
    """FAULTS 10."""
    assert only_problem_of(dag(task("a"), task("a"))) == "tasks[1].name: 'a' is the name of tasks[0] too"
    assert only_problem_of(dag()) == "tasks: is empty; a DAG needs at least one task"
    assert problems_of(b"dagName: d") == ["tasks: is required"]
    assert problems_of(b"tasks:") == ["tasks: expected a list, got nothing", "dagName: is required"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"image": ""}, "image: is empty"),
        ({"image": "a b"}, "image: 'a b' holds a space or another character no image has"),
        ({"command": []}, "command: is empty; Helios starts the command itself, so it needs one"),
        ({"command": [""]}, "command[0]: is empty; it is the program to start"),
        ({"command": "sh"}, "command: expected a list, got the text 'sh'; write ['sh']"),
        ({"command": ["a\0"]}, "command[0]: holds a NUL character, which no process can be given"),
        ({"args": ["x" * 131_072]}, "args[0]: has 131,072 bytes; the limit is 131,071"),
        ({"retries": {"count": -1}}, "retries.count: -1 is not within 0 to 20"),
        ({"retries": {"count": 21}}, "retries.count: 21 is not within 0 to 20"),
        ({"retries": {"count": 1.5}}, "retries.count: expected a whole number, got the number 1.5"),
        ({"timeoutSeconds": 0}, "timeoutSeconds: 0 is not within 1 to 31,622,400"),
        ({"type": "script"}, "type: expected 'command', got the text 'script'"),
        ({"env": {"1A": "x"}}, "env['1A']: '1A' is not a variable's name"),
        ({"env": {"A": None}}, "env.A: expected"),
        ({"env": {"A": {"secret": "s"}}}, "env.A.key: is required"),
        ({"env": {"A": {"secret": "S!", "key": "k"}}}, "env.A.secret: 'S!' is not a name Kubernetes takes"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, "env[1]: 'A' is set more than once"),
        ({"resources": {"limits": {"memroy": "1Gi"}}}, "resources.limits.memroy: unknown resource 'memroy'; did you"),
        ({"resources": {"limits": {"cpu": "1 core"}}}, "resources.limits.cpu: '1 core' is not a quantity"),
        ({"resources": {"limits": {"cpu": -1}}}, "resources.limits.cpu: '-1' is not a quantity"),
        (
            {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1000M"}}},
            "resources.limits.memory: 1000M is below the request of 2Gi",
        ),
        ({"nodeSelector": {"gpu": True}}, "nodeSelector.gpu: expected text, got the boolean true; put it in quotes"),
        ({"nodeSelector": {"-": "x"}}, "nodeSelector['-']: '-' is not a label's key"),
        ({"tolerations": [{"effect": "NoSchedule"}]}, "tolerations[0]: has no key"),
        ({"tolerations": [{"key": "a", "tolerationSeconds": 1}]}, "tolerations[0].tolerationSeconds: has a meaning"),
        ({"serviceAccountName": "A"}, "serviceAccountName: 'A' is not a name Kubernetes takes"),
        ({"memoize": "yes"}, "memoize: expected true or false or a mapping, got the text 'yes'; write true"),
        ({"memoize": {"maxAge": "7w"}}, "memoize.maxAge: '7w' is not a duration such as 30m, 12h or 7d"),
        ({"memoize": {"maxAge": 7}}, "memoize.maxAge: expected text, got the number 7; put it in quotes"),
        ({"memoize": {"maxAge": "367d"}}, "memoize.maxAge: 367d is above 366 days"),
        ({"memoize": {"verify": 1.5}}, "memoize.verify: 1.5 is not within 0 to 1"),
        ({"memoize": {"verfy": 1}}, "memoize.verfy: unknown field 'verfy'; did you mean 'verify'?"),
        ({"dependsOn": []}, "dependsOn: unknown field 'dependsOn'; did you mean 'depends_on'?"),
    ],
)
def test_what_a_task_may_hold(fields: dict[str, Any], problem: str) -> None:
    found = only_problem_of(dag(task(**fields)))
    assert found.startswith((f"tasks[0].{problem}", f"tasks[0]{problem}")), found


def test_memoize_warns_of_an_image_that_may_move_and_of_work_without_outputs() -> None:
    pinned = f"alpine@sha256:{'0' * 64}"
    text = dag(
        task(memoize=True, outputs=["o"]), task("b", image=pinned, memoize={"verify": 1}), task("c", memoize=False)
    )
    found = parse_dag(text)
    assert [str(each).partition(": ")[2][:30] for each in found.warnings] == [
        "is a tag, which may move: on K",
        "skips whatever the task does, ",
    ]
    assert [each.memoize is not None for each in found.dag.tasks] == [True, True, False]


def test_a_tag_in_many_memoized_tasks_is_warned_of_once() -> None:
    found = parse_dag(dag(*(task(f"t{n}", memoize=True, outputs=["o"]) for n in range(200))))
    (warning,) = found.warnings
    assert "and so in 199 more memoized tasks" in str(warning)


def test_a_latest_tag_is_the_users_choice() -> None:
    assert parse_dag(dag(task(image="alpine:latest"))).warnings == []


def test_a_broken_name_or_output_list_causes_no_complaint_about_those_who_refer_to_it() -> None:
    text = dag(task("a", outputs="x"), {**task(), "name": 5}, task("c", inputs=[{"fromTask": "a", "name": "x"}]))
    assert [problem.partition(":")[0] for problem in problems_of(text)] == ["tasks[0].outputs", "tasks[1].name"]


@pytest.mark.parametrize(
    ("limits", "text", "problem"),
    [
        (DagLimits(max_tasks=2), dag(task("a"), task("b"), task("c")), "tasks: 3 tasks; the limit is 2"),
        (
            DagLimits(max_chain_tasks=2),
            dag(task("c", depends_on=["b"]), task("b", depends_on=["a"]), task("a")),
            "tasks: the longest chain has 3 tasks; the limit is 2",
        ),
        (
            DagLimits(max_edges=1),
            dag(task("a"), task("b", depends_on=["a"], inputs=[{"uri": "s3://bkt/k"}])),
            "tasks: depends_on and inputs have 2 entries in all; the limit is 1",
        ),
        (
            DagLimits(max_inputs_per_task=0),
            dag(task(inputs=[{"uri": "s3://bkt/k"}])),
            "tasks[0].inputs: 1 inputs; the limit for one task is 0",
        ),
        (
            DagLimits(max_outputs_per_task=0),
            dag(task(outputs=["x"])),
            "tasks[0].outputs: 1 outputs; the limit for one task is 0",
        ),
        (
            DagLimits(max_task_text_bytes=9),
            dag(task(args=["12345"], env={"A": "1"})),
            "tasks[0]: command, args and env have 12 bytes; the limit is 9",
        ),
    ],
)
def test_limits_are_named_with_the_number_that_is_too_large(limits: DagLimits, text: bytes, problem: str) -> None:
    assert only_problem_of(text, limits) == problem
    assert parse_dag(text)


def test_a_hundred_thousand_tasks_give_one_limit_error() -> None:
    """FAULTS 11."""
    text = b"dagName: d\ntasks:\n" + b"- {name: a, image: i, command: [c]}\n" * 100_000
    assert only_problem_of(text) == "tasks: more than 10,000 entries in one list or mapping"
    as_json = b'{"dagName":"d","tasks":[' + b",".join([b'{"name":"a"}'] * 100_000) + b"]}"
    assert only_problem_of(as_json) == "tasks: 100,000 tasks; the limit is 10,000"


def test_ten_thousand_tasks_with_two_inputs_each_are_within_the_limits() -> None:
    tasks = [task("t0", outputs=["o"])] + [
        task(
            f"t{at}", outputs=["o"], inputs=[{"fromTask": f"t{at // 2}", "name": "o", "as": "i"}, {"uri": "s3://bkt/k"}]
        )
        for at in range(1, 10_000)
    ]
    parsed = parse_dag(dag(*tasks)).dag
    assert len(parsed.tasks) == 10_000
    assert parsed.graph().depth == 15


def test_an_output_that_looks_like_a_pattern_is_warned_of() -> None:
    """Found out before the task has run for hours, not after."""
    text = b"dagName: d\ntasks: [{name: a, image: i, command: [x], outputs: ['*.txt', plain.txt]}]"
    assert [str(warning) for warning in parse_dag(text).warnings] == [
        "line 2, tasks[0].outputs[0]: is taken as a path, not as a pattern; name a folder instead"
    ]


def test_a_stored_dag_of_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    """An older jobrunner meets it while a rolling update is under way; refusing it would fail the run."""
    text = b"""{dagName: d, tasks: [
        {name: a, image: i, command: [x], outputs: [o], env: {A: "1", B: {secret: s, key: k}}, memoize: {verify: 0.5},
         tolerations: [{key: k}], inputs: [{uri: "s3://bucket/k", as: e}]},
        {name: b, image: i, command: [x], inputs: [{fromTask: a, name: o}]}]}"""
    known = parse_dag(text).dag
    stored = msgspec.json.decode(msgspec.json.encode(known))

    def extended(value: Any) -> Any:
        if isinstance(value, list):
            return [extended(each) for each in value]
        if isinstance(value, dict):
            return {**{name: extended(each) for name, each in value.items()}, "ofALaterVersion": {"x": [1]}}
        return value

    stored["tasks"] = [extended(task) for task in stored["tasks"]]
    assert msgspec.json.decode(msgspec.json.encode({**stored, "later": 1}), type=Dag) == known


def test_on_exit_comes_after_all_others_and_waits_for_no_success() -> None:
    text = dag(task("a"), task("b", depends_on=["a"]), task("c"), onExit=task("bye", retries={"count": 2}))
    parsed = parse_dag(text).dag
    assert (parsed.on_exit, [each.name for each in parsed.tasks]) == ("bye", ["a", "b", "c", "bye"])
    assert parsed.graph().parents["bye"] == ("b", "c")
    assert parsed.success_graph().parents["bye"] == ()
    assert parsed.success_graph().descendants("a") == ["b"]
    assert parse_dag(written(msgspec.json.encode(parsed))).dag == parsed


def test_parameters_stand_in_on_exit_too() -> None:
    text = dag(task("a"), params={"who": "x"}, onExit=task("bye", command=["echo", "${params.who}"], env={"N": 1.10}))
    assert parse_dag(text).dag.tasks[-1].command == ("echo", "x")


def test_what_on_exit_cannot_have_is_refused_with_its_line() -> None:
    wrong = task(
        "a", depends_on=["a"], inputs=[{"fromTask": "a", "name": "x"}], memoize=True, retries={"count": 99}, nope=1
    )
    with pytest.raises(DagInvalid) as refused:
        parse_dag(dag(task("a"), onExit={name: each for name, each in wrong.items() if name != "nope"}))
    paths = [problem.path for problem in refused.value.problems]
    for path in ("name", "depends_on", "inputs[0].fromTask", "memoize", "retries.count"):
        assert f"onExit.{path}" in paths
    with pytest.raises(DagInvalid) as refused:
        parse_dag(dag(task("a"), onExit=wrong))
    assert "onExit.nope" in [problem.path for problem in refused.value.problems]
    with pytest.raises(DagInvalid):
        parse_dag(dag(task("a", depends_on=["bye"]), onExit=task("bye")))


def test_variables_of_on_exit_that_helios_sets_are_dropped_with_a_warning() -> None:
    parsed = parse_dag(dag(task("a"), onExit=task("bye", env={"HELIOS_RUN_STATUS": "mine", "OTHER": "x"})))
    assert [problem.path for problem in parsed.warnings] == ["onExit.env.HELIOS_RUN_STATUS"]
    assert parsed.dag.tasks[-1].env == (EnvValue("OTHER", "x"),)
