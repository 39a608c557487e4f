"""The key of a memoized task: what counts, what does not, and that no secret is in it."""

import msgspec
import pytest

from helios.dag import EnvSecret, EnvValue, ExternalInput, Task, TaskInput
from helios.memo import (
    PARTS_AT_MOST,
    Claim,
    Memo,
    MemoCheck,
    claim_of,
    content_of,
    decode_check,
    differing_parts,
    is_drawn,
    memo_key,
    memo_of,
    memo_parts,
)

TASK = Task(
    name="a",
    image="i",
    command=("x", "y"),
    args=("z",),
    env=(EnvValue("A", "1"), EnvSecret("B", "login", "token")),
    inputs=(TaskInput("up", "o", "in/o"), ExternalInput("s3://b/k", "k")),
    outputs=("p", "q"),
)
DIGESTS = {"in/o": "1" * 64, "k": "2" * 64}


def key(task: Task = TASK, image: str = "sha256:0", digests: dict[str, str] = DIGESTS) -> str:
    return memo_key(task, image, digests)


def changed(**fields: object) -> Task:
    return msgspec.structs.replace(TASK, **fields)


def test_the_key_of_the_same_work_never_changes() -> None:
    """Whoever changes what it is made of must raise FORMAT: else a success would be taken for other work."""
    assert key() == "db2254732a420010ce4d7df7e6d3217ee0db9744880c833895a211444dedb5dc"
    assert key(changed(name="other", retries=3, timeout_seconds=9, requests={"cpu": "1"}, depends_on=("w",))) == key()
    assert key(changed(env=TASK.env[::-1], outputs=("q", "p"), inputs=TASK.inputs[::-1])) == key()


@pytest.mark.parametrize(
    ("task", "part"),
    [
        (changed(command=("x",)), "command"),
        (changed(args=()), "args"),
        (changed(command=("x",), args=("y", "z")), "command"),
        (changed(env=(EnvValue("A", "2"), TASK.env[1])), "env A"),
        (changed(env=(TASK.env[0], EnvSecret("B", "login", "other"))), "env B"),
        (changed(env=(TASK.env[0], EnvValue("B", "login/token"))), "env B"),
        (changed(inputs=(TaskInput("up", "o", "in/o", "copy"), TASK.inputs[1])), "input in/o"),
        (changed(outputs=("p",)), "outputs"),
    ],
)
def test_every_change_of_the_work_changes_the_key_and_names_its_part(task: Task, part: str) -> None:
    assert key(task) != key()
    assert part in differing_parts(memo_parts(task, "sha256:0", DIGESTS), memo_parts(TASK, "sha256:0", DIGESTS))


def test_the_image_and_the_content_of_inputs_count() -> None:
    parts = memo_parts(TASK, "sha256:0", DIGESTS)
    assert differing_parts(parts, memo_parts(TASK, "sha256:1", DIGESTS)) == ["image"]
    other = {**DIGESTS, "k": "3" * 64}
    assert differing_parts(parts, memo_parts(TASK, "sha256:0", other)) == ["input k"]
    assert len({key(), key(image="sha256:1"), key(digests=other)}) == 3
    assert content_of("1", archive=True) != content_of("1", archive=False)


def test_where_an_input_comes_from_does_not_count() -> None:
    moved = changed(inputs=(ExternalInput("s3://elsewhere/x", "in/o"), TaskInput("w", "k", "k")))
    assert key(moved) == key()


def test_an_input_that_is_not_known_has_no_part_and_gives_no_key() -> None:
    assert "input k" not in memo_parts(TASK, "sha256:0", {"in/o": "1"})
    with pytest.raises(KeyError, match="k"):
        key(digests={"in/o": "1"})


def test_many_inputs_and_variables_are_one_part_each() -> None:
    many = range(PARTS_AT_MOST + 1)
    task = changed(
        inputs=tuple(TaskInput("up", f"o{number}", f"o{number}") for number in many),
        env=tuple(EnvValue(f"V{number}", "") for number in many),
    )
    parts = memo_parts(task, "i", {f"o{number}": "1" for number in many})
    assert set(parts) == {"image", "command", "args", "env", "inputs", "outputs"}


def test_about_the_wanted_share_is_drawn_and_always_the_same() -> None:
    drawn = [is_drawn("1-0", f"t{number}", 0.1) for number in range(2_000)]
    assert 120 < sum(drawn) < 280
    assert drawn == [is_drawn("1-0", f"t{number}", 0.1) for number in range(2_000)]
    assert not any(is_drawn("1-0", f"t{number}", 0) for number in range(100))
    assert all(is_drawn("1-0", f"t{number}", 1) for number in range(100))


def test_what_cannot_be_read_counts_as_nothing() -> None:
    assert decode_check(None) is None is decode_check("{") is decode_check('{"key": 1}')
    check = MemoCheck(key="k", parts={"image": "1"}, why="w")
    assert decode_check(msgspec.json.encode(check)) == check
    assert memo_of({"state": "good", "outputs": "{", "at": "5", "claim": "c"}) == Memo(at="5", claim="c")
    assert claim_of(Claim("1-0", "a", 2).text()) == ("1-0", "a", 2)
    assert claim_of("") is None is claim_of("[1]")
