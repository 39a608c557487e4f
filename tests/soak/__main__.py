"""Twenty thousand tasks while everything is killed, restarted and cut off; then a proof that nothing was lost.

    make soak [SEED=7]
    python -m tests.soak [--seed N] [--tasks N] [--seconds N] [--json FILE] [--keep FOLDER]

Ends with 1 if a promise was broken or a target missed. What it does with which seed is the same each time; when
something happens is not, since processes run as they are scheduled.
"""

import random
import signal
import sys

from bench.report import arguments, tell
from tests.soak.soak import Options, metrics_of, soak

SHOWN = 20
"""Violations that are told in full."""


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    # However it is ended, its processes end with it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("ended by a signal"))
    options = arguments(__doc__ or "", seed=0, tasks=20_000, seconds=480.0, keep="")
    seed = options.seed or random.SystemRandom().randrange(1, 1_000_000)
    say(f"seed {seed} (SEED={seed} repeats it)")
    wanted = Options(seed=seed, tasks=options.tasks, seconds=options.seconds, keep=options.keep)
    outcome = soak(wanted)
    metrics = metrics_of(wanted, outcome)
    tell(metrics, options.json)
    for violation in outcome.verdict.violations[:SHOWN]:
        say(f"{violation.rule}: {violation.what}")
    for words in outcome.faults.stuck[:SHOWN]:
        say(f"work stood still: {words}")
    broken = len(outcome.verdict.violations) + len(outcome.faults.stuck)
    missed = sum(each.met is False for each in metrics.values())
    say(f"seed {seed}: {broken} violations, {missed} targets missed")
    sys.exit(1 if broken or missed else 0)


if __name__ == "__main__":
    main()
