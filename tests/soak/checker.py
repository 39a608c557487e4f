"""Proves from a soak's history that every promise was kept, or lists what was broken. Pure functions.

The ledgers say what was sent and what ran; what Redis says in the end, and what its events told on the way, must follow
from that. Nothing is reckoned with the services' own code.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from helios.events import RunAccepted, RunEnded, TaskEnded, TaskLaunched
from tests.soak.history import Figures, History, RunState, Verdict, Violation, milliseconds, number_of
from tests.soak.ledger import (
    Account,
    Acknowledged,
    Brought,
    CancelWanted,
    Durable,
    Ended,
    NodeBegan,
    Seen,
    Started,
    Wanted,
)
from tests.soak.workload import Task, tasks_of

RULES = (
    "an accepted run is lost",
    "a request has two runs",
    "a run that nobody sent",
    "a submission was judged wrongly",
    "a run does not end",
    "an attempt was committed twice",
    "an attempt's end is missing",
    "a run was opened or ended twice",
    "a child started before its parents ended well",
    "a task's end has no cause in the ledger",
    "a task has the wrong status",
    "a run has the wrong status",
    "retries were not counted right",
    "an account differs from the ledger",
    "a run's figures differ from the fold of its history",
    "a sum differs from the fold of its runs",
    "a time is wrong",
    "something is left",
    "a process ended by itself",
    "the feed is not whole",
)
"""What a Violation's rule may be."""

HIT_CAUSES = ("cached", "coalesced", "warm")
DISRUPTIONS_FOR_FREE = 5
CLOCK_MS = 5
"""Redis takes the time once for a script and once for the entries of its streams."""

Attempt = tuple[str, str, int]
"""Run, task and number."""

ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
ENDS = (*ENDED, "UPSTREAM_FAILED")


def check(history: History) -> Verdict:
    """Every violation there is, and the figures."""
    facts = Facts(history)
    violations = [
        *_whole(history),
        *_submissions(facts),
        *_requests(facts),
        *_origins(facts),
        *_order(facts),
        *_left(history),
        *_sums(facts),
    ]
    for run, state in history.runs.items():
        if state.status == "REJECTED":
            continue
        violations += _ends(run, state)
        if state.status not in ENDED:
            continue  # what is not over yet proves nothing more
        violations += _commits(facts, run, state)
        violations += _outcomes(facts, run, state)
        violations += _figures_of_run(facts, run, state)
        violations += _times(facts, run, state)
    return Verdict(violations, _figures(facts, violations))


class Facts:
    """The history, by what one looks things up by."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.plans = {each.number: each for each in history.plans}
        self.wanted: dict[str, Wanted] = {}
        self.acknowledged: list[Acknowledged] = []
        self.durable: dict[str, Durable] = {}
        self.seen: list[Seen] = []
        self.cancels: set[str] = set()
        self.accounts: dict[Attempt, Account] = {}
        self.started: dict[Attempt, list[Started]] = defaultdict(list)
        self.ended: dict[Attempt, list[Ended]] = defaultdict(list)
        self.lost_pods: set[str] = set()
        self.ended_well: dict[tuple[str, str], int] = {}
        """When a task's command first ended well, whatever became of that."""
        for line in history.lines:
            match line:
                case Wanted():
                    self.wanted[line.send] = line
                case Acknowledged():
                    self.acknowledged.append(line)
                case Durable():
                    self.durable[line.send] = line
                case Seen():
                    self.seen.append(line)
                case CancelWanted():
                    self.cancels.add(line.run)
                case Brought():
                    self.accounts[line.run, line.task, line.attempt] = line.account
                case Started():
                    self.started[line.run, line.task, line.attempt].append(line)
                case Ended():
                    self.ended[line.run, line.task, line.attempt].append(line)
                    if line.ok:
                        known = self.ended_well.get((line.run, line.task), line.at)
                        self.ended_well[line.run, line.task] = min(known, line.at)
                case NodeBegan():
                    self.lost_pods.update(line.lost)
        self.commits: dict[Attempt, list[TaskEnded]] = defaultdict(list)
        self.launches: Counter[Attempt] = Counter()
        self.opened: dict[str, list[int]] = defaultdict(list)
        self.closed: dict[str, list[int]] = defaultdict(list)
        for entry, event in history.events:
            match event:
                case TaskEnded():
                    self.commits[event.run, event.task, event.attempt].append(event)
                case TaskLaunched():
                    self.launches[event.run, event.task, event.attempt] += 1
                case RunAccepted():
                    self.opened[event.run].append(milliseconds(entry))
                case RunEnded():
                    self.closed[event.run].append(milliseconds(entry))
                case _:
                    pass

    @cached_property
    def number_by_run(self) -> dict[str, int]:
        found = {line.run: self.wanted[line.send].number for line in self.acknowledged if line.send in self.wanted}
        for run, state in self.history.runs.items():
            if (number := number_of(state.dag)) is not None:
                found[run] = number
        return found

    @cached_property
    def send_by_run(self) -> dict[str, Wanted]:
        return {line.run: self.wanted[line.send] for line in self.acknowledged if line.send in self.wanted}

    def place_of(self, entry: str) -> int | None:
        """Which of its submission's texts an id was given for; None where the answer was lost."""
        wanted = self.send_by_run.get(entry)
        return None if wanted is None else place_of(wanted.send)

    def is_conflict(self, entry: str) -> bool:
        """Whether one request was used for two DAGs, both of which were answered."""
        plan = self.plans.get(self.number_by_run.get(entry, -1))
        return plan is not None and plan.request is not None and any(plan.rejected) and self.place_of(entry) is not None

    def is_known(self, entry: str) -> bool:
        """Whether Redis still knows what became of a submission."""
        return entry in self.history.runs or entry in self.history.aliases

    def was_cut_off(self, entry: str, kind: str = "") -> bool:
        """Whether Redis did this within what one of its ends (of that kind) may have taken away."""
        at = milliseconds(entry)
        return any(cut.since // 1000 <= at <= cut.until // 1000 for cut in self.history.cuts if kind in ("", cut.kind))

    def dag_of(self, run: str) -> Sequence[Task]:
        """The DAG of a run, also of one that a power cut took; none if nobody can tell."""
        state = self.history.runs.get(run)
        if state is not None and state.dag:
            return state.dag
        plan = self.plans.get(self.number_by_run.get(run, -1))
        return () if plan is None or any(plan.rejected) else tuple(tasks_of(json.loads(plan.sends[0])))

    def account(self, run: str, task: str, attempt: int) -> Account | None:
        """What every pod of the attempt claims; None if none of them came so far."""
        return self.accounts.get((run, task, attempt))

    def counted(self, run: str, name: str, state: Mapping[str, str]) -> Iterator[tuple[TaskEnded, Account]]:
        """The attempts whose inputs count for the task, each with its account."""
        last = int(state.get("attempt") or 0)
        if state["status"] not in ("SUCCEEDED", "FAILED"):
            last -= 1
        for attempt in range(1, last + 1):
            for event in self.commits.get((run, name, attempt), ())[:1]:
                account = self.account(run, name, attempt)
                yield event, Account() if _vanished(event) or account is None else account

    def last_end(self, run: str, name: str, state: Mapping[str, str]) -> TaskEnded | None:
        """How the last attempt ended that did."""
        for attempt in range(int(state.get("attempt") or 0), 0, -1):
            if commits := self.commits.get((run, name, attempt)):
                return commits[0]
        return None


def _whole(history: History) -> Iterator[Violation]:
    if history.events_missing:
        yield Violation("the feed is not whole", f"{history.events_missing} events were trimmed: take fewer tasks")
    for name, code in history.exits.items():
        yield Violation("a process ended by itself", f"{name} ended with code {code}")


def _submissions(facts: Facts) -> Iterator[Violation]:
    """What was accepted is there, unless Redis itself lost it and had not said that it would not."""
    for line in facts.acknowledged:
        if facts.is_known(line.run):
            yield from _judged(facts, line)
        elif line.run in facts.history.waiting:
            yield Violation("a run does not end", f"{line.run} ({line.send}) still waits to be taken up")
        elif line.send in facts.durable:
            yield Violation("an accepted run is lost", f"{line.run} ({line.send}), which WAITAOF had confirmed")
        elif not facts.was_cut_off(line.run):
            yield Violation("an accepted run is lost", f"{line.run} ({line.send}), acknowledged at {line.at}")
    for line in facts.seen:
        if line.run not in facts.history.runs:
            yield Violation("an accepted run is lost", f"{line.run}, which its client had seen")


def _judged(facts: Facts, line: Acknowledged) -> Iterator[Violation]:
    """A send that must be refused is, and no other one; of one request with two DAGs, whichever came second."""
    wanted = facts.wanted.get(line.send)
    plan = facts.plans.get(wanted.number) if wanted else None
    if plan is None:
        return
    state = facts.history.runs.get(line.run)
    is_rejected = state is not None and state.status == "REJECTED"
    place = place_of(line.send)
    if plan.request is not None and any(plan.rejected):
        return
    if is_rejected != plan.rejected[place]:
        words = state.fields.get("problems", "") if state else ""
        verb = "refused" if is_rejected else "not refused"
        yield Violation("a submission was judged wrongly", f"{line.run} ({line.send}) was {verb}: {words[:200]}")


def place_of(send: str) -> int:
    """Of `NUMBER.PLACE` or, when it was sent again, `NUMBER.PLACErTIME`."""
    return int(send.partition(".")[2].partition("r")[0])


def _requests(facts: Facts) -> Iterator[Violation]:
    """One run for each request, however often it was sent; and one at least."""
    runs: dict[int, list[str]] = defaultdict(list)
    for run, state in facts.history.runs.items():
        if state.status != "REJECTED" and (number := facts.number_by_run.get(run)) is not None:
            runs[number].append(run)
    sent = {line.number for line in facts.wanted.values() if line.request is not None}
    waiting = {facts.number_by_run.get(run) for run in facts.history.waiting}
    for number in sorted(sent):
        if len(runs[number]) > 1:
            yield Violation("a request has two runs", f"soak-{number}: {', '.join(runs[number])}")
        if not runs[number] and number not in waiting:
            yield Violation("an accepted run is lost", f"request soak-{number} has no run, though it was sent again")
    for alias, first in facts.history.aliases.items():
        if first not in facts.history.runs:
            yield Violation("an accepted run is lost", f"{first}, which {alias} is an alias of")
        elif facts.place_of(alias) != facts.place_of(first) and facts.is_conflict(alias):
            yield Violation("a submission was judged wrongly", f"{alias} is an alias of {first}, which has another DAG")


def _origins(facts: Facts) -> Iterator[Violation]:
    """No more runs of a submission than it was sent, and none of another."""
    sends: Counter[int] = Counter(line.number for line in facts.wanted.values())
    runs: Counter[int] = Counter()
    for run, state in facts.history.runs.items():
        if state.status == "REJECTED":
            continue
        number = facts.number_by_run.get(run)
        if number is None or number not in sends:
            yield Violation("a run that nobody sent", run)
            continue
        runs[number] += 1
    for number, count in runs.items():
        if count > sends[number]:
            yield Violation("a run that nobody sent", f"{number} was sent {sends[number]} times and has {count} runs")


def _order(facts: Facts) -> Iterator[Violation]:
    """By the ledgers alone: whatever Redis says, no command started before those that it waits for had ended well."""
    parents: dict[str, dict[str, tuple[str, ...]]] = {}
    for (run, task, attempt), starts in facts.started.items():
        if run not in parents:
            parents[run] = {each.name: each.parents for each in facts.dag_of(run)}
        for start in starts:
            for parent in parents[run].get(task, ()):
                ended = facts.ended_well.get((run, parent))
                if ended is None or ended > start.at:
                    what = f"{run}: {task}, attempt {attempt}, at {start.at}, {parent} at {ended}"
                    yield Violation("a child started before its parents ended well", what)


def _left(history: History) -> Iterator[Violation]:
    for what, count in history.left.items():
        if count:
            yield Violation("something is left", f"{what}: {count}")


def _ends(run: str, state: RunState) -> Iterator[Violation]:
    if state.status not in ENDED:
        yield Violation("a run does not end", f"{run} is {state.status or 'nothing'}")
    for name, fields in state.tasks.items():
        if fields.get("status") not in ENDS:
            yield Violation("a run does not end", f"{run}: task {name} is {fields.get('status')}")


def _commits(facts: Facts, run: str, state: RunState) -> Iterator[Violation]:
    if len(facts.opened[run]) != 1 or len(facts.closed[run]) != 1:
        what = f"{run}: opened {len(facts.opened[run])} times, ended {len(facts.closed[run])} times"
        yield Violation("a run was opened or ended twice", what)
    for name, fields in state.tasks.items():
        last, status = int(fields.get("attempt") or 0), fields.get("status")
        for attempt in range(1, last + 2):
            at = (run, name, attempt)
            commits = len(facts.commits.get(at, ()))
            if commits > 1 or facts.launches[at] > 1:
                what = f"{run}: {name}, attempt {attempt}: {facts.launches[at]} launches, {commits} ends"
                yield Violation("an attempt was committed twice", what)
            must = attempt < last or (attempt == last and status in ("SUCCEEDED", "FAILED"))
            if must and not commits:
                yield Violation("an attempt's end is missing", f"{run}: {name}, attempt {attempt}")
            if commits and attempt > last:
                yield Violation("an attempt was committed twice", f"{run}: {name} has attempt {attempt} beyond {last}")


def expected(dag: Iterable[Task]) -> dict[str, str]:
    """How each task ends when nothing is cancelled or lost for good. The DAG need not be in any order."""
    tasks = {task.name: task for task in dag}
    found: dict[str, str] = {}

    def status(name: str) -> str:
        if name not in found:
            task = tasks[name]
            above = [status(parent) for parent in task.parents]
            well = all(each == "SUCCEEDED" for each in above)
            found[name] = "UPSTREAM_FAILED" if not well else "FAILED" if task.fails else "SUCCEEDED"
        return found[name]

    for name in tasks:
        status(name)
    return found


def _outcomes(facts: Facts, run: str, state: RunState) -> Iterator[Violation]:
    """Each task ended as its command did, each run as its tasks did."""
    tasks = {task.name: task for task in state.dag}
    if tasks.keys() != state.tasks.keys():
        yield Violation("a task has the wrong status", f"{run}: the DAG's tasks and the records differ")
        return
    wanted = expected(state.dag)
    given_up = {name for name, fields in state.tasks.items() if _is_given_up(fields)}
    cancelled = run in facts.cancels
    for name, fields in state.tasks.items():
        status, attempt = fields.get("status", ""), int(fields.get("attempt") or 0)
        ends = facts.ended.get((run, name, attempt), ())
        if status == "SUCCEEDED" and not any(end.ok for end in ends):
            yield Violation("a task's end has no cause in the ledger", f"{run}: {name} succeeded in attempt {attempt}")
        if status == "FAILED" and name not in given_up and not any(not end.ok and not end.killed for end in ends):
            yield Violation("a task's end has no cause in the ledger", f"{run}: {name} failed in attempt {attempt}")
        excused = bool(given_up) or (cancelled and status == "CANCELLED")
        if status != wanted[name] and not excused:
            yield Violation("a task has the wrong status", f"{run}: {name} is {status} and not {wanted[name]}")
        yield from _retries(facts, run, tasks[name], fields)
    statuses = Counter(fields.get("status") for fields in state.tasks.values())
    right = (
        "CANCELLED" if statuses["CANCELLED"] else "SUCCEEDED" if statuses["SUCCEEDED"] == len(state.tasks) else "FAILED"
    )
    if state.status != right or state.fields.get("reason"):
        what = f"{run} is {state.status} and not {right}; reason: {state.fields.get('reason')}"
        yield Violation("a run has the wrong status", what)


def _is_given_up(fields: Mapping[str, str]) -> bool:
    """Whether the task failed because it was disrupted once more than is repeated for free."""
    return (
        fields.get("status") == "FAILED"
        and fields.get("disrupted") == "1"
        and int(fields.get("disruptions") or 0) >= DISRUPTIONS_FOR_FREE
    )


def _retries(facts: Facts, run: str, task: Task, fields: Mapping[str, str]) -> Iterator[Violation]:
    """Each attempt after the first is paid for by the user's retries if the command failed, else by nobody."""
    last, disruptions = int(fields.get("attempt") or 0), int(fields.get("disruptions") or 0)
    used = task.retries - int(fields.get("retriesLeft") or 0)
    if last and used + disruptions != last - 1:
        what = f"{run}: {task.name} is at attempt {last} with {used} retries used and {disruptions} disruptions"
        yield Violation("retries were not counted right", what)
    failed = sum(
        any(not end.ok and not end.killed for end in facts.ended.get((run, task.name, attempt), ()))
        for attempt in range(1, last)
    )
    if used > failed and disruptions < DISRUPTIONS_FOR_FREE:
        what = f"{run}: {task.name} used {used} retries, though its command failed {failed} times"
        yield Violation("retries were not counted right", what)
    if fields.get("status") == "FAILED" and fields.get("disrupted") != "1" and fields.get("retriesLeft") != "0":
        what = f"{run}: {task.name} failed with {fields.get('retriesLeft')} retries left"
        yield Violation("retries were not counted right", what)


def _vanished(event: TaskEnded) -> bool:
    """Whether the attempt ended without any account, because no trace of its pod was left."""
    return event.status == "FAILED" and event.node == ""


def _figures_of_run(facts: Facts, run: str, state: RunState) -> Iterator[Violation]:
    for name, fields in state.tasks.items():
        for event, account in facts.counted(run, name, fields):
            claimed = (account.cache, account.hitBytes, account.missBytes)
            told = (event.cache, event.cacheHitBytes, event.cacheMissBytes)
            if _vanished(event):
                if told[1:] != (0, 0):
                    yield Violation("an account differs from the ledger", f"{run}: {name}: {told} of no pod")
            elif told != claimed:
                what = f"{run}: {name}, attempt {event.attempt}: {told} and not {claimed}"
                yield Violation("an account differs from the ledger", what)
    folded = fold(facts, run, state)
    wrong = {name: (state.fields.get(name), value) for name, value in folded.items() if state.fields.get(name) != value}
    if wrong:
        yield Violation("a run's figures differ from the fold of its history", f"{run}: {wrong}")


def fold(facts: Facts, run: str, state: RunState) -> dict[str, str]:
    """The figures of a run's hash, from its history."""
    statuses = Counter(fields.get("status") for fields in state.tasks.values())
    totals: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    nodes: set[str] = set()
    for name, fields in state.tasks.items():
        last: TaskEnded | None = None
        for event, account in facts.counted(run, name, fields):
            last = event
            totals.update(_amounts(account))
        if last is not None and fields["status"] in ("SUCCEEDED", "FAILED"):
            outcomes[last.cache] += 1
            nodes.add(last.node)
    told = set(outcomes) - {"N/A"}
    cache = "Unknown" if "Unknown" in told else "N/A" if not told else told.pop() if len(told) == 1 else "Partial"
    found = {
        "taskCount": len(state.dag),
        "taskSucceeded": statuses["SUCCEEDED"],
        "taskFailed": statuses["FAILED"],
        "taskUpstreamFailed": statuses["UPSTREAM_FAILED"],
        "taskCancelled": statuses["CANCELLED"],
        "taskSkipped": 0,
        "cacheHitTasks": outcomes["Hit"],
        "cachePartialTasks": outcomes["Partial"],
        "cacheMissTasks": outcomes["Miss"],
        "cacheHitBytes": totals["hitBytes"],
        "cacheMissBytes": totals["missBytes"],
        "cacheFetchMs": totals["fetchMs"],
        "cacheSavedMs": totals["savedMs"],
        "cachePeerBytes": totals["peerBytes"],
        "cacheStoreBytes": totals["storeBytes"],
        "cacheHit": cache if state.fields.get("cacheEnabled") == "true" else "N/A",
    }
    if not statuses["CANCELLED"]:
        # A task that was cancelled may have had a node before.
        found["nodes"] = ",".join(sorted(nodes - {""}))
    return {name: str(value) for name, value in found.items()}


def _amounts(account: Account) -> dict[str, int]:
    return {
        "hitBytes": account.hitBytes,
        "missBytes": account.missBytes,
        "fetchMs": account.fetchMs,
        "savedMs": account.savedMs,
        "peerBytes": account.peerBytes,
        "storeBytes": account.storeBytes,
    }


def _sums(facts: Facts) -> Iterator[Violation]:
    """The sums of each DAG and node are those of the runs that ended."""
    wanted: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    for run, state in facts.history.runs.items():
        if state.status not in ENDED:
            continue
        for whose, counts in _adds(facts, run, state).items():
            wanted[state.partition, whose].update(counts)
    for place in sorted(wanted.keys() | facts.history.sums.keys()):
        right = {name: count for name, count in wanted[place].items() if count}
        found = {name: count for name, count in facts.history.sums.get(place, {}).items() if count}
        if found != right:
            wrong = {
                name: (found.get(name, 0), right.get(name, 0))
                for name in sorted(found.keys() | right.keys())
                if found.get(name, 0) != right.get(name, 0)
            }
            yield Violation("a sum differs from the fold of its runs", f"{place}: {wrong}")


def _adds(facts: Facts, run: str, state: RunState) -> dict[str, Counter[str]]:
    """What a run adds to the sums of its DAG and of its nodes."""
    name = state.fields.get("dagName", "")
    found: dict[str, Counter[str]] = {name: Counter(runs=1)}
    for task, fields in state.tasks.items():
        counts: Counter[str] = Counter()
        for _, account in facts.counted(run, task, fields):
            counts.update(_amounts(account))
        counts["tasks"] += fields["status"] in ("SUCCEEDED", "FAILED")
        # Inputs by cause are those of the last attempt that ended, whether the task was cancelled afterwards or not.
        ended = facts.last_end(run, task, fields)
        account = facts.account(run, task, ended.attempt) if ended else None
        if ended is not None and account is not None and not _vanished(ended):
            for cause, (inputs, size) in account.causes.items():
                counts["hits" if cause in HIT_CAUSES else "misses"] += inputs
                counts[f"inputs:{cause}"] += inputs
                counts[f"bytes:{cause}"] += size
        found[name].update(counts)
        node = (ended.node if ended else "") or fields.get("node", "")
        if node:
            whose = f":node:{node}"
            if whose not in found:
                found[whose] = Counter(runs=1)
            found[whose].update(counts)
    return found


def _times(facts: Facts, run: str, state: RunState) -> Iterator[Violation]:
    fields = state.fields
    start, end = int(fields["startTime"]), int(fields["endTime"])
    wrong: list[str] = []
    if int(fields["durationMs"]) != end - start:
        wrong.append(f"durationMs is {fields['durationMs']}, not {end - start}")
    if start < milliseconds(run) - CLOCK_MS:
        wrong.append("it started before it was submitted")
    for name, at, told in (("startTime", start, facts.opened[run]), ("endTime", end, facts.closed[run])):
        if told and abs(told[0] - at) > CLOCK_MS:
            wrong.append(f"{name} is {at}, and its event was at {told[0]}")
    for task, record in state.tasks.items():
        if record.get("status") in ("SUCCEEDED", "FAILED") and int(record["endedAt"]) > end + CLOCK_MS:
            wrong.append(f"task {task} ended after the run")
    if not facts.history.cuts:
        # What was undone by a cut was started before the run that is there now.
        starts = [each.at // 1000 for name in state.tasks for each in facts.started.get((run, name, 1), ())]
        if starts and min(starts) < start - CLOCK_MS:
            wrong.append("a command started before its run was open")
    for each in wrong:
        yield Violation("a time is wrong", f"{run}: {each}")


def _figures(facts: Facts, violations: Sequence[Violation]) -> Figures:
    history = facts.history
    figures = Figures()
    answered = {line.send for line in facts.acknowledged}
    for state in history.runs.values():
        figures.rejected += state.status == "REJECTED"
        figures.cancelled += state.status == "CANCELLED"
        if state.status == "REJECTED":
            continue
        figures.runs += 1
        figures.tasks += len(state.tasks)
        for fields in state.tasks.values():
            figures.disrupted += int(fields.get("disruptions") or 0)
            figures.given_up += _is_given_up(fields)
    figures.aliases = len(history.aliases)
    figures.unanswered = sum(line.send not in answered and line.request is None for line in facts.wanted.values())
    figures.durable = len(facts.durable)
    for line in facts.acknowledged:
        if not facts.is_known(line.run) and line.send not in facts.durable and facts.was_cut_off(line.run):
            figures.taken += 1
            figures.taken_by_kill += not facts.was_cut_off(line.run, "power cut")
            figures.taken_repeated += facts.wanted[line.send].request is not None
    figures.attempts = len(facts.started)
    for starts in facts.started.values():
        figures.starts += len(starts)
        if len(starts) > 1:
            figures.double_starts += 1
            first, last = min(each.at for each in starts), max(each.at for each in starts)
            figures.double_starts_undone += any(first <= cut.until <= last for cut in history.cuts)
    counts = Counter(each.rule for each in violations)
    figures.lost = counts["an accepted run is lost"]
    figures.double_commits = counts["an attempt was committed twice"]
    return figures
