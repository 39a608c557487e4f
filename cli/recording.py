"""Runs as a file: everything Redis keeps about them, as gzip JSON lines, and back into an empty Redis.

The first line says the format's version and HELIOS_PARTITIONS; each further one holds a page of one key; the last one
counts them, so that a file that was cut short is noticed. Values stay as they are in Redis: a secret is there by its
name only, as in the DAG.
"""

import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import redis

from cli.connection import Link
from cli.lookup import task_names
from helios.events import decode_event
from helios.keys import Keys, all_partitions
from helios.transitions import pipelined

VERSION = 1
MOST_PARTITIONS = 1024
MOST_LINE_CHARACTERS = 256 * 1024 * 1024
LOG_STEPS = ("fetch", "task", "publish")
PAGE = 1_000
EVENTS_RECORDED = 20_000
"""Of each partition's feed, the newest; of those the ones of the recorded runs are written."""


class Head(msgspec.Struct, frozen=True):
    """The first line."""

    heliosRecording: int
    partitions: int
    runs: int


class Page(msgspec.Struct, frozen=True):
    """A part of one key's value: pairs of a hash or a sorted set, items of a list, `[id, fields]` of a stream, or the
    whole of a string.
    """

    key: str
    kind: str
    value: Any


class Written(NamedTuple):
    runs: int
    bytes: int


class RecordingBroken(Exception):
    """The file is no recording, or not a whole one; the message says where."""


def record(link: Link, runs: Sequence[str], file: Path) -> Written:
    """Write the runs to the file, which appears whole or not at all. Raises OSError."""
    pages = 0
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".part", dir=file.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as raw:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as out:
                out.write(_line(msgspec.to_builtins(Head(VERSION, link.settings.partitions, len(runs)))))
                for page in _pages(link, runs):
                    out.write(_line(msgspec.to_builtins(page)))
                    pages += 1
                out.write(_line({"end": pages}))
            raw.flush()
            os.fsync(raw.fileno())
        size = partial.stat().st_size
        partial.replace(file)
    except BaseException:
        partial.unlink()
        raise
    return Written(len(runs), size)


def _line(value: Any) -> bytes:
    # The standard library's encoder keeps what is not UTF-8, as escaped surrogates.
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _pages(link: Link, runs: Sequence[str]) -> Iterator[Page]:
    wanted = set(runs)
    for keys in link.partitions:
        # The feed comes first: what happens while the records are read is in them then, and only missing here.
        yield from _events(link.client, keys, wanted)
    for run in runs:
        yield from _of_run(link, run)


def _of_run(link: Link, run: str) -> Iterator[Page]:
    client, keys = link.client, link.keys(run)
    names = task_names(link, run)
    fields: Any = client.hgetall(keys.run(run))
    yield Page(keys.run(run), "hash", list(fields.items()))
    dag: Any = client.get(keys.dag(run))
    if dag is not None:
        yield Page(keys.dag(run), "string", dag)
    for start in range(0, len(names), PAGE):
        chunk = names[start : start + PAGE]
        yield Page(keys.task_names(run), "list", chunk)
        pipeline = pipelined(client)
        for name in chunk:
            pipeline.hgetall(keys.task(run, name))
        tasks: list[dict[str, str]] = pipeline.execute()
        for name, task in zip(chunk, tasks, strict=True):
            if task:
                yield Page(keys.task(run, name), "hash", list(task.items()))
            for attempt in range(1, int(task.get("attempt") or 0) + 1):
                for step in LOG_STEPS:
                    yield from _stream(client, keys.log(run, name, attempt, step))
    for index in (keys.runs, keys.active, keys.log_sizes, keys.dag_runs(fields.get("dagName", ""))):
        score: Any = client.zscore(index, run)
        if score is not None:
            yield Page(index, "zset", [[run, score]])


def _stream(client: redis.Redis, key: str) -> Iterator[Page]:
    last = "-"
    while True:
        entries: Any = client.xrange(key, min=last, count=PAGE)
        if entries:
            yield Page(key, "stream", entries)
            last = f"({entries[-1][0]}"
        if len(entries) < PAGE:
            return


def _events(client: redis.Redis, keys: Keys, wanted: set[str]) -> Iterator[Page]:
    newest: Any = client.xrevrange(keys.events, count=EVENTS_RECORDED)
    entries = [each for each in reversed(newest) if _run_of(each[1].get("event", "")) in wanted]
    for start in range(0, len(entries), PAGE):
        yield Page(keys.events, "stream", entries[start : start + PAGE])


def _run_of(event: str) -> str:
    try:
        return decode_event(event.encode("utf-8", "surrogateescape")).run
    except (msgspec.DecodeError, UnicodeError):
        return ""


def read_head(file: Path) -> Head:
    """What the file says about itself. Raises RecordingBroken, or OSError."""
    for number, value in _values(file):
        return _head(number, value)
    raise RecordingBroken(f"{file} is empty")


def load(file: Path, client: redis.Redis) -> Head:
    """Fill an empty Redis from the file. Raises RecordingBroken, or OSError."""
    values = _values(file)
    head = _head(*next(values, (1, None)))
    prefixes = tuple(keys.prefix for keys in all_partitions(head.partitions))
    pages = 0
    for number, value in values:
        if isinstance(value, dict) and "end" in value:
            if value["end"] != pages:
                raise RecordingBroken(f"line {number} counts {value['end']!r} lines, but there are {pages}")
            if next(values, None) is not None:
                raise RecordingBroken(f"line {number + 1} comes after the end")
            return head
        try:
            page = msgspec.convert(value, Page)
        except msgspec.ValidationError as error:
            raise RecordingBroken(f"line {number}: {error}") from None
        if not page.key.startswith(prefixes):
            raise RecordingBroken(f"line {number}: {page.key[:80]!r} is no key of a run")
        try:
            _put(client, page)
        except (TypeError, ValueError, redis.ResponseError, redis.DataError) as error:
            raise RecordingBroken(f"line {number}: {error}") from None
        pages += 1
    raise RecordingBroken(f"it ends after line {pages + 1}, and its last line is missing")


def _head(number: int, value: Any) -> Head:
    try:
        head = msgspec.convert(value, Head)
    except msgspec.ValidationError as error:
        raise RecordingBroken(f"line {number} is not the first line of a recording: {error}") from None
    if head.heliosRecording != VERSION:
        raise RecordingBroken(f"its format is version {head.heliosRecording}, and this Helios reads {VERSION}")
    if not 1 <= head.partitions <= MOST_PARTITIONS:
        raise RecordingBroken(f"line {number}: partitions is {head.partitions}")
    return head


def _values(file: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        with gzip.open(file, "rb") as lines:
            while line := lines.readline(MOST_LINE_CHARACTERS):
                number += 1
                yield number, json.loads(line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RecordingBroken(f"after line {number}: {error}") from None
    except ValueError as error:
        raise RecordingBroken(f"line {number} is not JSON: {error}") from None


def _put(client: redis.Redis, page: Page) -> None:
    key, value = page.key, _raw(page.value)
    pipeline = pipelined(client)
    match page.kind:
        case "string" if isinstance(value, bytes):
            pipeline.set(key, value)
        case "hash":
            pipeline.hset(key, mapping=dict(value))
        case "list":
            pipeline.rpush(key, *value)
        case "zset":
            pipeline.zadd(key, dict(value))
        case "stream":
            for entry, fields in value:
                pipeline.xadd(key, fields, id=entry)
        case _:
            raise ValueError(f"{page.kind!r} is no kind of value")
    pipeline.execute()


def _raw(value: Any) -> Any:
    """Text as the bytes it was in Redis, all the way down."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_raw(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {_raw(name): _raw(each) for name, each in cast("dict[str, Any]", value).items()}
    return value
