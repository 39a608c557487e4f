"""What a node's cache was asked for: from runs that `helios record` wrote, or made up from recorded workflows.

A WfFormat file is one run of one workflow; a cache is shared by many. So `occasions` makes days of work of such files:
the same workflows over other data and in other variants, submitted in three ways that people have.
"""

import heapq
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from bench.replay import Workflow
from cli.lookup import newest_runs
from cli.recorded import opened
from cli.run_object import read_run, read_views

RECORDED_RUNS = 100_000
DATASETS = 6
SLOTS = 8


class Use(msgspec.Struct, frozen=True):
    """One file that a task reads or writes; equal keys are equal contents."""

    key: str
    bytes: int
    seconds: float = 0.0
    """What its download took, where that was measured."""


class Job(msgspec.Struct):
    """One task of one run. Times in seconds from any zero; its inputs are wanted from `submitted` on."""

    submitted: float
    start: float
    end: float
    inputs: Sequence[Use]
    outputs: Sequence[Use]
    node: str = "node"


class Submission(msgspec.Struct, frozen=True):
    """One run to make up. Runs of one dataset read the same files; those of one variant also make the same ones."""

    at: float
    workflow: Workflow
    dataset: int
    variant: int


def occasions(workflows: Sequence[Workflow], seed: int = 0) -> dict[str, list[Job]]:
    """Made-up work by its name; the same for the same seed."""
    chance = random.Random(seed)
    pairs = [(workflow, dataset) for dataset in range(DATASETS) for workflow in workflows]
    # Longer than any of the runs takes: nothing of the next one is known while one runs.
    apart = 2 * max(sum(workflow.seconds.values()) for workflow in workflows) + 1
    in_turn = [Submission(apart * number, workflow, dataset, 0) for number, (workflow, dataset) in enumerate(pairs * 3)]
    sweep = [Submission(0.0, workflow, dataset, variant) for variant in range(3) for workflow, dataset in pairs]
    busy: list[Submission] = []
    for batch in range(12):
        for _ in range(chance.randrange(1, 9)):
            dataset = min(int(chance.paretovariate(0.7)) - 1, 4 * DATASETS)
            busy.append(Submission(batch * apart / 4, chance.choice(workflows), dataset, chance.randrange(3)))
    return {
        "in turn": schedule(in_turn, SLOTS),
        "sweep": schedule(sweep, SLOTS),
        "busy day": schedule(busy, SLOTS),
    }


def schedule(submissions: Sequence[Submission], slots: int) -> list[Job]:
    """When each task runs on a node with so many slots: first ready, first served, as the jobrunner does."""
    waiting: dict[tuple[int, str], int] = {}
    children: dict[tuple[int, str], list[tuple[int, str]]] = {}
    ready: list[tuple[float, int, tuple[int, str]]] = []
    number = 0
    for run, submission in enumerate(submissions):
        for task, parents in submission.workflow.parents.items():
            waiting[run, task] = len(set(parents))
            for parent in set(parents):
                children.setdefault((run, parent), []).append((run, task))
            if not parents:
                heapq.heappush(ready, (submission.at, number, (run, task)))
                number += 1
    free = [0.0] * slots
    ended: list[tuple[float, tuple[int, str]]] = []
    jobs: list[Job] = []
    while ready or ended:
        # The next start is known for certain only once everything that ends before it has made its children ready.
        if ready and (not ended or max(ready[0][0], free[0]) <= ended[0][0]):
            at, _, (run, task) = heapq.heappop(ready)
            start = max(at, heapq.heappop(free))
            job = _job(submissions[run], task, start)
            heapq.heappush(free, job.end)
            heapq.heappush(ended, (job.end, (run, task)))
            jobs.append(job)
            continue
        end, done = heapq.heappop(ended)
        for child in children.get(done, ()):
            waiting[child] -= 1
            if not waiting[child]:
                heapq.heappush(ready, (end, number, child))
                number += 1
    return jobs


def _job(submission: Submission, task: str, start: float) -> Job:
    workflow = submission.workflow
    made = workflow.producers

    def use(file: str) -> Use:
        variant = f"/{submission.variant}" if file in made else ""
        return Use(f"{workflow.name}/{submission.dataset}{variant}/{file}", workflow.sizes.get(file, 1))

    return Job(
        submitted=submission.at,
        start=start,
        end=start + workflow.seconds.get(task, 0.0),
        inputs=[use(file) for file in dict.fromkeys(workflow.inputs[task])],
        outputs=[use(file) for file in dict.fromkeys(workflow.outputs[task])],
    )


def recorded_jobs(file: Path) -> list[Job]:
    """The tasks of all runs in a recording, with what each really read and when. Raises cli.failure.CommandFailed."""
    jobs: list[Job] = []
    with opened(file) as link:
        for run in newest_runs(link, RECORDED_RUNS):
            submitted = int(read_run(link, run).get("startTime") or 0) / 1000
            for view in read_views(link, run):
                if view.startTime is None or view.endTime is None:
                    continue
                jobs.append(
                    Job(
                        submitted=submitted,
                        start=view.startTime / 1000,
                        end=view.endTime / 1000,
                        inputs=[
                            Use(
                                each.sha256 or f"{run}/{view.name}/{each.name}",
                                each.bytes,
                                each.ms / 1000 if each.source == "store" else 0.0,
                            )
                            for each in view.inputs
                        ],
                        outputs=[Use(each.sha256, each.bytes) for each in view.outputs],
                        node=view.node,
                    )
                )
    return jobs


def distinct_bytes(jobs: Iterable[Job]) -> int:
    """What a cache would have to hold to never evict."""
    return sum({use.key: use.bytes for job in jobs for use in (*job.inputs, *job.outputs)}.values())
