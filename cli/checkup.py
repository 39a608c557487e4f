"""What `helios doctor` looks at in Redis. Each check yields findings; none of them raises for what it looks for."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import redis

from cli.connection import Link, place_of, refusal
from cli.embedded.processes import is_alive
from cli.embedded.stack import Stack
from cli.figures import count, duration
from cli.table import shortened
from helios.heartbeat import live_services
from helios.keys import (
    COLLECTOR_GROUP,
    CONTROLS,
    JOBRUNNER_GROUP,
    LOSSES,
    PROBE,
    SUBMISSIONS,
    SUBMITTER_GROUP,
    Keys,
)
from helios.losses import LAST_ID, losses_since, newest_id, order
from helios.redis_address import shown
from helios.redis_client import sentinel_views
from helios.transitions import pipelined
from helios.version import VERSION

OLDEST_VERSION = (7, 0)
WAITING_TOO_LONG_SECONDS = 60
STUCK_SECONDS = 60
RUNS_LOOKED_AT = 20
"""The oldest active runs, which are the likeliest to be stuck."""
LOSS_TOLD_HOURS = 24
"""How long a loss counts as something to look at."""
ONE_LOSS_MS = 60_000
"""What is noticed within this time was lost at one time: each stream's reader sees it by itself."""
INGRESS = (SUBMISSIONS, CONTROLS)
"""What users add to by themselves."""
SERVICES = (SUBMITTER_GROUP, JOBRUNNER_GROUP, COLLECTOR_GROUP)


class Finding(msgspec.Struct, frozen=True):
    """One line of the doctor's. `fix` is empty where nothing is wrong."""

    check: str
    ok: bool
    detail: str
    fix: str = ""


def check_server(link: Link) -> Iterator[Finding]:
    """Version, writability, and whether anything may be lost: by eviction, or at a restart."""
    place = place_of(link.settings.redis_url)
    info: dict[str, Any] = link.client.info()  # pyright: ignore[reportUnknownMemberType] -- the stubs leave a parameter open
    number = str(info.get("redis_version", "0"))
    named = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {number}"
    found = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
    yield Finding("redis", True, f"{named} at {place}")
    yield from check_primary(link)
    if found < OLDEST_VERSION:
        yield Finding("redis version", False, f"{number} is too old", "upgrade to Redis 7.0 or later, or to Valkey")
    try:
        link.client.set(PROBE, "1", ex=10)
        link.client.delete(PROBE)
        yield Finding("redis writable", True, f"role {info.get('role', 'unknown')}")
    except redis.ResponseError as error:
        why, fix = refusal(error)
        yield Finding("redis writable", False, why, fix)
    policy = str(info.get("maxmemory_policy", "noeviction"))
    yield Finding(
        "redis eviction",
        policy == "noeviction",
        policy,
        "" if policy == "noeviction" else "CONFIG SET maxmemory-policy noeviction: evicted keys are lost runs",
    )
    persistent = str(info.get("aof_enabled", "0")) == "1"
    yield Finding(
        "redis persistence",
        persistent,
        "append-only file" if persistent else "no append-only file",
        "" if persistent else "CONFIG SET appendonly yes: without it a restart loses runs",
    )
    yield from check_losses(link)


def check_primary(link: Link) -> Iterator[Finding]:
    """Which primary the Sentinels name, and whether all of them answer and agree; nothing without Sentinels."""
    views = sentinel_views(link.settings)
    if not views:
        return
    named = sorted({shown(view.primary) for view in views if view.primary is not None})
    silent = [f"{shown(view.sentinel)} {view.trouble}" for view in views if view.primary is None]
    detail = (
        f"{' or '.join(named) or 'unknown'}, named by {len(views) - len(silent)} of {count(len(views), 'Sentinel')}"
    )
    fix = ""
    if silent:
        detail += f"; not by {'; '.join(shortened(each, 160) for each in silent)}"
        fix = "start the Sentinels that do not answer, or correct HELIOS_REDIS_URL: too few of them elect no primary"
    elif len(named) > 1:
        fix = "a failover is under way, or the Sentinels do not see each other: SENTINEL MASTER on each"
    yield Finding("redis primary", not fix, detail, fix)


def check_losses(link: Link) -> Iterator[Finding]:
    """What Redis lost lately of what it had acknowledged."""
    now = server_ms(link)
    try:
        losses = losses_since(link.client, now - LOSS_TOLD_HOURS * 3_600_000)
    except redis.ResponseError as error:
        yield Finding("redis losses", False, str(error), f"the key is damaged: look at it, then DEL '{LOSSES}'")
        return
    if not losses:
        yield Finding("redis losses", True, f"none was noticed in {LOSS_TOLD_HOURS} h")
        return
    for stream in sorted({each.stream for each in losses if each.entries}):
        gone = sum(each.entries for each in losses if each.stream == stream)
        detail = f"{stream}: {gone:,} of its entries trimmed away before anybody read them"
        fix = f"send them again; find who adds with XADD … MAXLEN, and have it left out. Then DEL '{LOSSES}'"
        yield Finding("redis losses", False, detail, fix)
    lost = [each for each in losses if not each.entries]
    if not lost:
        return
    last = max(each.at for each in lost)
    lost = [each for each in lost if each.at >= last - ONE_LOSS_MS]
    began = min(order(each.after)[0] for each in lost)
    until = max(order(each.until)[0] for each in lost)
    detail = (
        f"{duration(now - last)} ago acknowledged writes were gone, of {', '.join(sorted({e.stream for e in lost}))}: "
        + (f"the last {duration(until - began)} of them at most" if began else "all of them")
    )
    fix = (
        "runs that are still there go on; one that was submitted in that time may be gone: see `helios runs`, and "
        f"submit it again with its --request-id. Then DEL '{LOSSES}'"
    )
    yield Finding("redis losses", False, detail, fix)


def check_services(link: Link) -> Iterator[Finding]:
    """Each service alive, in our version."""
    ours = VERSION
    beats = live_services(link.client)
    for service in SERVICES:
        replicas = [beat for beat in beats if beat["service"] == service]
        if not replicas:
            fix = f"start it: python -m services.{service}" if link.stack is None else silent_fix(link.stack, service)
            yield Finding(service, False, "no replica gives a sign of life", fix)
            continue
        others = sorted({beat["version"] for beat in replicas} - {ours})
        detail = f"{count(len(replicas), 'replica')}, version {', '.join(sorted({b['version'] for b in replicas}))}"
        fix = f"this command is version {ours}: upgrade the older of the two" if others else ""
        yield Finding(service, not others, detail, fix)
    if beats:
        yield _versions(beats)


def _versions(beats: Sequence[Mapping[str, str]]) -> Finding:
    """Whether all services are of one version: they work beside each other, but not for longer than an update takes."""
    replicas: dict[str, list[str]] = {}
    for beat in beats:
        replicas.setdefault(beat["version"], []).append(beat["replica"])
    if len(replicas) == 1:
        return Finding("versions", True, f"all services are version {next(iter(replicas))}")
    named = "; ".join(f"{version}: {', '.join(names)}" for version, names in sorted(replicas.items()))
    return Finding("versions", False, f"mixed ({named})", "an update has not ended: upgrade what is still older")


def silent_fix(stack: Stack, service: str) -> str:
    """What to do about a service of the embedded stack from which nothing is heard."""
    component = stack.components.get(service)
    if component is None:
        return "helios up"
    log = stack.home.log(service)
    pids = " ".join(str(process.pid) for process in component.processes if is_alive(process))
    if component.phase == "ready" and pids:
        return f"it runs (pid {pids}) and hangs: see {log}, then kill -9 {pids}; the supervisor starts it again"
    return f"the supervisor starts it again by itself ({component.phase}): see {log}"


def check_streams(link: Link) -> Iterator[Finding]:
    """Every work stream's length, pending entries, lag, and the age of its oldest entry."""
    now = server_ms(link)
    for stream, group, is_prompt in work_streams(link):
        try:
            yield _check_stream(link, stream, group, is_prompt, now)
        except redis.ResponseError as error:
            yield Finding(stream, False, str(error), f"the key is damaged: look at it, then DEL '{stream}'")


def work_streams(link: Link) -> list[tuple[str, str, bool]]:
    """Each stream, the group that reads it, and whether its entries must be handled promptly."""
    is_open = not any(beat.get("waits") for beat in live_services(link.client))
    streams = [(SUBMISSIONS, SUBMITTER_GROUP, is_open), (CONTROLS, SUBMITTER_GROUP, True)]
    for keys in link.partitions:
        streams += [
            (keys.ready, JOBRUNNER_GROUP, False),  # may wait for room
            *((stream, JOBRUNNER_GROUP, False) for stream in keys.ready_streams if stream != keys.ready),
            (keys.checks, COLLECTOR_GROUP, False),  # may wait for others that do the same work
            (keys.launched, COLLECTOR_GROUP, False),  # stays as long as its task runs
            (keys.cancelled, JOBRUNNER_GROUP, True),
            (keys.finished, SUBMITTER_GROUP, True),
            (keys.settled, COLLECTOR_GROUP, True),
        ]
    return streams


def _check_stream(link: Link, stream: str, group: str, is_prompt: bool, now: int) -> Finding:
    if not link.client.exists(stream):
        return Finding(stream, True, "empty")
    if stream in INGRESS and newest_id(link.client, stream) == LAST_ID:
        detail = "takes no more entries, because one was added with the highest id there can be"
        fix = (
            f"the {group} makes it anew once all of it is handled: see its log; and find who adds with ids of their own"
        )
        return Finding(stream, False, detail, fix)
    groups: Any = link.client.xinfo_groups(stream)
    ours = next((each for each in groups if each["name"] == group), None)
    length: Any = link.client.xlen(stream)
    if ours is None:
        fix = f"start the {group}: it makes its group"
        return Finding(stream, length == 0, f"length {length}, no group {group!r}", fix if length else "")
    oldest: Any = link.client.xrange(stream, count=1)
    age = now - int(oldest[0][0].partition("-")[0]) if oldest else 0
    lag = ours.get("lag")
    detail = f"length {length}, pending {ours['pending']}, lag {'unknown' if lag is None else lag}"
    if oldest:
        detail += f", oldest {duration(age)}"
    late = is_prompt and bool(oldest) and age > WAITING_TOO_LONG_SECONDS * 1000
    return Finding(stream, not late, detail, f"is the {group} alive and well? see its log" if late else "")


def check_dead_letters(link: Link) -> Iterator[Finding]:
    """Entries that could not be handled."""
    for keys in link.partitions:
        try:
            letters: Any = link.client.xlen(keys.dead)
            newest: Any = link.client.xrevrange(keys.dead, count=1)
        except redis.ResponseError as error:
            yield Finding("dead letters", False, str(error), f"the key is damaged: look at it, then DEL '{keys.dead}'")
            continue
        if not letters or not newest:  # the last one may go between the two looks
            yield Finding("dead letters", True, "none")
            continue
        reason = shortened(newest[0][1].get("reason", ""), 120)
        fix = (
            "helios tui, Health: retry or discard each; "
            f"or read them: redis-cli XRANGE '{keys.dead}' - +, then DEL '{keys.dead}'"
        )
        yield Finding("dead letters", False, f"{letters}, the newest: {reason}", fix)


def check_runs(link: Link) -> Iterator[Finding]:
    """Runs that say RUNNING though nothing of them is under way."""
    active = 0
    stuck: list[str] = []
    now = server_ms(link)
    for keys in link.partitions:
        found: Any = link.client.zrange(  # pyright: ignore[reportUnknownMemberType] -- as above
            keys.active, 0, RUNS_LOOKED_AT - 1
        )
        total: Any = link.client.zcard(keys.active)
        active += total
        stuck += [run for run in found if _is_stuck(link, keys, run, now)]
    if stuck:
        fix = f"helios cancel {stuck[0]}; if that changes nothing, see the log of the submitter and the collector"
        yield Finding("runs", False, f"{active} active; nothing moves in {', '.join(stuck[:5])}", fix)
    else:
        yield Finding("runs", True, f"{active} active, none stuck")


def _is_stuck(link: Link, keys: Keys, run: str, now: int) -> bool:
    """No task is queued, running or about to be settled, and nothing has ended lately."""
    started: Any = link.client.hget(keys.run(run), "startTime")
    if started is None:
        return True
    names: Any = link.client.lrange(keys.task_names(run), 0, -1)
    pipeline = pipelined(link.client)
    for name in names:
        pipeline.hmget(keys.task(run, name), "status", "endedAt")
    states: list[Any] = pipeline.execute() if names else []
    if any(status in ("QUEUED", "RUNNING") for status, _ in states):
        return False
    newest = max([int(started), *(int(ended) for _, ended in states if ended)])
    return now - newest > STUCK_SECONDS * 1000


def server_ms(link: Link) -> int:
    try:
        seconds, micros = link.client.time()  # pyright: ignore[reportUnknownMemberType] -- as above
        return int(seconds) * 1000 + int(micros) // 1000
    except redis.ResponseError:
        return int(time.time() * 1000)
