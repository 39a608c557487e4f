"""One soak: the load, the faults, the wait until all is over, and what became of it."""

import resource
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import msgspec
import redis

from bench.report import Metric
from helios.heartbeat import live_services
from tests.soak.checker import RULES, check
from tests.soak.client import Config
from tests.soak.faults import Faults, Pace, Recovery, percentile
from tests.soak.gather import history_of, left
from tests.soak.history import Verdict
from tests.soak.processes import Crew, Server
from tests.soak.workload import plan
from tests.waiting import wait_until

RECOVERY_SECONDS = 5.0
DRAIN_SECONDS = 10.0
START_SECONDS = 120.0
DONE_SHARE = 0.98
"""Some of what is planned is taken by power cuts."""
REST_SECONDS = 120.0
"""So long before time is up nothing is broken any more."""
UNCHANGED_SECONDS = 100.0
"""What is left and has not changed for so long stays: every look that repairs something has come two times by then."""


class Options(NamedTuple):
    """`seconds`: how long the submissions are spread over; faults go on for as long."""

    seed: int
    tasks: int = 20_000
    seconds: float = 480.0
    at_most_seconds: float = 900.0
    """Load, faults and the wait for the end together."""
    lease: float = 15.0
    replicas: int = 2
    clients: int = 2
    partitions: int = 2
    pace: Pace = Pace()
    keep: str = ""
    """A folder to leave ledgers, logs and Redis's file in."""
    restarts_at_end: bool = False
    """The services are started again after the load, so that what they look for at their start and every 30 s is looked
    for now."""
    decks: int = 0
    """Faults go on until each kind has come so often, even when all is submitted."""


class Outcome(NamedTuple):
    verdict: Verdict
    faults: Faults
    seconds: float
    drains: list[float]
    waited_share: float | None
    """In what share of the time some process of the machine waited for a processor; None where Linux does not say."""


def soak(options: Options) -> Outcome:
    """Runs it. Raises AssertionError when the processes do not come up."""
    folder = Path(options.keep) if options.keep else Path(tempfile.mkdtemp(prefix="helios-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ledgers").mkdir()
    server = Server(folder / "redis")
    began = time.monotonic()
    try:
        server.start()
        config = Config(
            redis_url=server.url,
            link_url=server.url,
            seed=options.seed,
            tasks=options.tasks,
            seconds=options.seconds,
            partitions=options.partitions,
            began_at=0.0,
            redis_folder=str(server.folder),
            ledgers=str(folder / "ledgers"),
            durable_lock=str(folder / "durable.lock"),
            enough=str(folder / "enough"),
        )
        crew = Crew(folder, server, config, replicas=options.replicas, clients=options.clients, lease=options.lease)
        try:
            return _soak(options, crew, server, began)
        finally:
            crew.close()
    finally:
        server.close()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _soak(options: Options, crew: Crew, server: Server, began: float) -> Outcome:
    waited_before = _waited_seconds()
    for name in [*crew.replicas, "node"]:
        crew.start(name)
    _await_services(server.client(), len(crew.replicas))
    crew.config = msgspec.structs.replace(crew.config, began_at=time.time())
    crew.config_file.write_bytes(msgspec.json.encode(crew.config))
    for number in range(options.clients):
        crew.start(f"client-{number}")
    faults = Faults(crew, server, options.seed, options.pace)
    deadline = began + options.at_most_seconds
    try:
        faults.start()
        _wait_for_clients(options, crew, faults, deadline)
    finally:
        faults.stopping.set()
    faults.stop()
    crew.send_no_more()
    _come_to_rest(options, crew, server, deadline)
    drains = [crew.stop(name) for name in crew.replicas]
    plans = plan(options.seed, options.tasks)
    ledgers = Path(crew.config.ledgers)
    exits = dict(crew.exits)
    history = history_of(server.client(), plans, ledgers, crew.jobs, options.partitions, server.cuts, exits)
    seconds, waited = time.monotonic() - began, _waited_seconds()
    share = None if waited is None or waited_before is None else (waited - waited_before) / seconds
    return Outcome(check(history), faults, seconds, [*faults.drains, *drains], share)


def _waited_seconds() -> float | None:
    """How long, since the machine was started, some process could run and had no processor."""
    try:
        text = Path("/proc/pressure/cpu").read_text()
    except OSError:
        return None
    return int(text.split("\n")[0].rpartition("total=")[2]) / 1e6


def _wait_for_clients(options: Options, crew: Crew, faults: Faults, deadline: float) -> None:
    """Until they have sent everything and seen what they follow, and each kind of fault has come often enough."""
    while time.monotonic() < deadline - REST_SECONDS and not faults.errors:
        if crew.are_clients_done() and faults.rounds >= options.decks:
            return
        crew.look()
        time.sleep(0.2)


def _come_to_rest(options: Options, crew: Crew, server: Server, deadline: float) -> None:
    """Until nothing is left to do, or time is up: the checker says what is left then."""
    client = server.client()
    restarted = not options.restarts_at_end
    known, since = left(client, crew.jobs, options.partitions), time.monotonic()
    while time.monotonic() < min(deadline, since + UNCHANGED_SECONDS):
        crew.look()
        if crew.are_clients_done():
            found = left(client, crew.jobs, options.partitions)
            if not found:
                return
            if found != known:
                known, since = found, time.monotonic()
            if not restarted:
                restarted = True
                for name in crew.replicas:
                    crew.stop(name)
                    crew.start(name)
        time.sleep(0.2)


def _await_services(client: redis.Redis, replicas: int) -> None:
    def alive() -> bool:
        return len(live_services(client)) >= replicas

    wait_until("all replicas are there", alive, START_SECONDS)


def metrics_of(options: Options, outcome: Outcome) -> dict[str, Metric]:
    """The figures of a soak, in the form of every benchmark's."""
    figures, faults = outcome.verdict.figures, outcome.faults
    rules = Counter(each.rule for each in outcome.verdict.violations)
    found: dict[str, Metric] = {
        "tasks": Metric(
            value=figures.tasks,
            unit="tasks",
            target=f"≥ {DONE_SHARE * options.tasks:,.0f}",
            met=figures.tasks >= DONE_SHARE * options.tasks,
        ),
        "runs": Metric(value=figures.runs, unit="runs"),
        "  of them cancelled": Metric(value=figures.cancelled, unit="runs"),
        "submissions refused": Metric(value=figures.rejected, unit="submissions"),
        "requests repeated": Metric(value=figures.aliases, unit="submissions"),
        "time": Metric(value=outcome.seconds, unit="s"),
        "  of it, processors of soak and services": Metric(value=_processor_seconds(), unit="s"),
        "faults injected": Metric(value=sum(faults.counts.values()), unit="faults"),
    }
    if outcome.waited_share is not None:
        found["something waited for a processor"] = Metric(value=100 * outcome.waited_share, unit="% of the time")
    for kind, count in sorted(faults.counts.items()):
        found[f"  {kind}"] = Metric(value=count, unit="faults")
    found["lost"] = Metric(value=figures.lost, unit="runs", target="0", met=figures.lost == 0)
    found["committed twice"] = Metric(
        value=figures.double_commits, unit="attempts", target="0", met=figures.double_commits == 0
    )
    for rule in RULES:
        if rules[rule]:
            found[f"VIOLATED: {rule}"] = Metric(value=rules[rule], unit="times", target="0", met=False)
    if faults.stuck:
        found["VIOLATED: work stood still"] = Metric(value=len(faults.stuck), unit="times", target="0", met=False)
    found |= {
        "acknowledged, then taken by a power cut": Metric(
            value=figures.taken - figures.taken_by_kill, unit="submissions"
        ),
        "acknowledged, then taken by a kill -9 of Redis": Metric(value=figures.taken_by_kill, unit="submissions"),
        "  of both, sent again by their clients": Metric(value=figures.taken_repeated, unit="submissions"),
        "confirmed by WAITAOF (none may be lost)": Metric(value=figures.durable, unit="submissions"),
        "never answered, without a request id": Metric(value=figures.unanswered, unit="submissions"),
        "attempts": Metric(value=figures.attempts, unit="attempts"),
        "  started more than once": Metric(value=figures.double_starts, unit="attempts"),
        "    of them since Redis had forgotten the first": Metric(value=figures.double_starts_undone, unit="attempts"),
        "  disrupted and repeated for free": Metric(value=figures.disrupted, unit="attempts"),
        "tasks given up after five disruptions": Metric(value=figures.given_up, unit="tasks"),
    }
    for kind in ("after its restart", "after its lease, by a peer"):
        alone = [each.seconds for each in faults.recoveries if each.kind == kind and each.alone]
        _recoveries(found, f"recovery {kind}", alone, RECOVERY_SECONDS)
        _recoveries(found, f"recovery {kind}, amid other faults", _amid(faults.recoveries, kind), None)
    of_redis = [each.seconds for each in faults.recoveries if each.target == "redis"]
    _recoveries(found, "first event after Redis answers again", of_redis, None)
    slowest = max(outcome.drains, default=0.0)
    found["end on SIGTERM, slowest"] = Metric(
        value=slowest, unit="s", target=f"≤ {DRAIN_SECONDS:g} s", met=slowest <= DRAIN_SECONDS
    )
    return found


def _processor_seconds() -> float:
    """Of this process and of all it has started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _amid(recoveries: list[Recovery], kind: str) -> list[float]:
    return [each.seconds for each in recoveries if each.kind == kind and not each.alone]


def _recoveries(found: dict[str, Metric], name: str, seconds: list[float], limit: float | None) -> None:
    if not seconds:
        if limit is not None:
            found[name] = Metric(value=0, unit="samples", target="some", met=False)
        return
    p99 = percentile(seconds, 0.99)
    met = None if limit is None else p99 <= limit
    found[f"{name}, p50 of {len(seconds)}"] = Metric(value=percentile(seconds, 0.5), unit="s")
    found[f"{name}, p99"] = Metric(value=p99, unit="s", target=None if limit is None else f"≤ {limit:g} s", met=met)
