"""`make crash`: every service is killed at every call that it makes in a run, which must end as if it had not been.

    python -m tests.crash [--worlds N] [--scenario NAME] [--only CASE] [--workload FILE] [--samples N] [--share 1]
                          [--minutes N]

Each case of the diamond and of the pods' steps comes first, with a sample of the others; then as many of the rest as
there is time for. It ends with 1 if there was a violation, or if the time was not enough for the first. A violation
names its case, which `--only` plays again, as in `--only diamond:collector:after:57`.
"""

import argparse
import math
import random
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from tests.crash.cases import Baseline, Players, Verdict, as_they_end, every_case, players
from tests.crash.points import Plan
from tests.crash.processes import ROOT, fork_servers
from tests.crash.scenarios import Scenario, all_of, seed
from tests.crash.world import LEASE_SECONDS, SERVICES, Case
from tests.real_s3 import running_s3

WORKLOAD = ROOT / "bench" / "data" / "small-workflow.json"
TAKEOVERS = 12
"""Cases of each service in which a second replica takes over."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=6, help="cases at the same time")
    parser.add_argument("--scenario", action="append", help="only this one; may be repeated")
    parser.add_argument("--only", action="append", help="only this case; may be repeated")
    parser.add_argument("--workload", type=Path, default=WORKLOAD, help="a recorded workflow, in WfFormat")
    parser.add_argument("--samples", type=int, default=12, help="cases of each service on the workload")
    parser.add_argument(
        "--share",
        type=float,
        default=0.15,
        help="of the services' cases but those of the diamond, to be done in any case",
    )
    parser.add_argument("--minutes", type=float, default=9.5, help="after this no further case is begun")
    parser.add_argument("--seed", type=int, default=8)
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="helios-crash-") as name:
        folder = Path(name)
        (folder / "weed").mkdir()
        with running_s3(folder / "weed") as s3, fork_servers(folder) as places:
            seed(s3.client, options.workload)
            scenarios = partial(all_of, options.workload)
            with players(folder, places, s3.endpoint, scenarios, options.worlds) as made:
                code = _run(made, scenarios(), options, until)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    _say(f"{used.ru_utime + used.ru_stime:.0f} s of processors' time")
    return code


def _run(made: Players, scenarios: Sequence[Scenario], options: argparse.Namespace, until: float) -> int:
    began = time.monotonic()
    only = [_case(text) for text in options.only or ()]
    wanted = {case.scenario for case in only} or set(options.scenario or ()) or {each.name for each in scenarios}
    asked = {
        (each.name, victim): made.baseline(each.name, victim)
        for each in scenarios
        if each.name in wanted
        for victim in each.victims
        if not only or any(case.scenario == each.name and case.victim == victim for case in only)
    }
    found = {key: future.result() for key, future in asked.items()}
    first, more = (only, []) if only else _cases(found, random.Random(options.seed), options.samples, options.share)
    _say(
        f"{len(first)} cases and, as far as time allows, {len(more)} more; {options.worlds} at a time; "
        f"without a crash: {time.monotonic() - began:.0f} s"
    )
    verdicts = _judged(made, [*first, *more], found, until)
    _tell(found, verdicts)
    left = len(set(first) - {verdict.case for verdict in verdicts})
    bad = [verdict for verdict in verdicts if verdict.violations]
    for verdict in bad:
        _say(f"\n{verdict.case} ({verdict.died_at})\n  " + "\n  ".join(verdict.violations))
    reached = sum(verdict.reached for verdict in verdicts)
    _say(
        f"\n{len(verdicts)} cases ({reached} killed; the others ended before their call came), {len(bad)} violations, "
        f"{time.monotonic() - began:.0f} s"
        + (f"; {left} cases that have to be done were not begun in time" if left else "")
    )
    return 1 if bad or left else 0


def _case(text: str) -> Case:
    scenario, victim, point, at, *peer = text.split(":")
    return Case(scenario, victim, Plan(int(at), point), bool(peer))


def _cases(
    found: dict[tuple[str, str], Baseline], chance: random.Random, samples: int, share: float
) -> tuple[list[Case], list[Case]]:
    """Those that have to be done: each of the diamond and of the pods' steps, and samples of the others. And the rest
    of these, but of the workload, whose cases take longest.
    """
    first: list[Case] = []
    more: list[Case] = []
    for (scenario, victim), each in found.items():
        every = list(every_case(scenario, victim, each))
        if scenario == "workload":
            every = chance.sample(every, min(samples, len(every)))
        elif scenario != "diamond" and victim in SERVICES:
            chance.shuffle(every)
            enough = math.ceil(share * len(every))
            more += every[enough:]
            every = every[:enough]
        first += every
        if scenario == "diamond":
            # Of two replicas each has about half of the calls.
            early = [case for case in every if case.plan and case.plan.at <= each.calls // 2]
            first += [case._replace(peer=True) for case in chance.sample(early, min(TAKEOVERS, len(early)))]
    for cases in (first, more):
        chance.shuffle(cases)  # so that those which wait and those which work go side by side
    return first, more


def _judged(
    made: Players, cases: Sequence[Case], found: dict[tuple[str, str], Baseline], until: float
) -> list[Verdict]:
    """Those that were begun in time."""
    futures: list[Future[Verdict]] = [made.judge(case, found[case.scenario, case.victim].states) for case in cases]
    verdicts: list[Verdict] = []
    for verdict in as_they_end(futures):
        verdicts.append(verdict)
        if verdict.violations:
            _say(f"violation: {verdict.case}: {verdict.violations[0][:300]}")
        if time.monotonic() > until:
            for future in futures:
                future.cancel()
            verdicts += [f.result() for f in futures if not f.cancelled() and f.result() not in verdicts]
            break
        if len(verdicts) % 100 == 0:
            _say(f"… {len(verdicts)} of {len(cases)}")
    return verdicts


def _tell(found: dict[tuple[str, str], Baseline], verdicts: Sequence[Verdict]) -> None:
    rows: dict[tuple[str, str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.reached:
            rows[verdict.case.scenario, verdict.case.victim, verdict.client].append(verdict)
    _say(f"\n{'scenario':<10}{'killed':<16}{'client':<12}{'calls':>6}{'cases':>7}{'violations':>12}{'seconds':>9}")
    for (scenario, victim), each in found.items():
        for client in sorted(each.by_client):
            mine = rows[scenario, victim, client]
            bad, seconds = sum(bool(verdict.violations) for verdict in mine), sum(verdict.seconds for verdict in mine)
            calls = each.by_client[client]
            _say(f"{scenario:<10}{victim:<16}{client:<12}{calls:>6}{len(mine):>7}{bad:>12}{seconds:>9.0f}")
    _say(f"\n{'recovery, in seconds':<44}{'cases':>7}{'p50':>8}{'p99':>8}{'most':>8}")
    for peer in (False, True):
        after = f"after the end of its lease of {LEASE_SECONDS:g} s" if peer else "after its restart"
        for service in SERVICES:
            times = sorted(
                verdict.recovery
                for verdict in verdicts
                if verdict.recovery is not None and verdict.case.victim == service and verdict.case.peer == peer
            )
            if times:
                p50, p99 = times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)]
                _say(f"{service + ' ' + after:<44}{len(times):>7}{p50:>8.2f}{p99:>8.2f}{times[-1]:>8.2f}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
