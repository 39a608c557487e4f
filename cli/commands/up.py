"""`helios up`: the embedded stack in the foreground, until Ctrl-C or SIGTERM."""

import os
import time

from cli.connection import ALL, place_of, stack_ready, uses_own_servers
from cli.embedded.home import Home, home_from
from cli.embedded.lease import StackFailed, running_stack, stop_stack
from cli.embedded.stack import Stack
from cli.failure import RUN_FAILED, SUCCEEDED, CommandFailed
from cli.figures import count
from cli.interrupts import Interrupts, noting_interrupts
from cli.output import narrate, put

LOOK_SECONDS = 0.25
MOST_REPLICAS = 16


def up(*, replicas: int = 1, metrics: str | None = None) -> int:
    """Run everything in the foreground and say how to reach it.

    Valkey, S3, the services and the node keep running until Ctrl-C or SIGTERM. Other commands use them meanwhile; those
    that still do at the end are waited for, until a second Ctrl-C or SIGTERM stops everything at once.

    Parameters
    ----------
    replicas
        How many of each service run side by side.
    metrics
        Serve the metrics of all services for Prometheus, at /metrics of this host:port; that of the variable
        HELIOS_METRICS_BIND unless given.
    """
    if uses_own_servers():
        raise CommandFailed(
            "helios up runs a Valkey of its own, but HELIOS_REDIS_URL points to another server",
            hint="unset HELIOS_REDIS_URL, or start the services: python -m services.submitter, and so on",
        )
    if not 1 <= replicas <= MOST_REPLICAS:
        raise CommandFailed(f"--replicas is {replicas}", hint=f"give 1 to {MOST_REPLICAS}")
    if metrics:
        os.environ["HELIOS_METRICS_BIND"] = metrics  # the supervisor, which this command may start, goes by it
    home = home_from()
    lost = False
    with noting_interrupts() as interrupts:
        try:
            with stack_ready(ALL, replicas=replicas) as stack:
                tell(stack)
                warn_of_replicas(stack, replicas)
                lost = stay(home, interrupts)
            stop(home)
        except KeyboardInterrupt:
            narrate("stopping everything at once …")
            stop_at_once(home)
    narrate("stopped")
    return RUN_FAILED if lost else SUCCEEDED


def stop(home: Home) -> None:
    """Stop the stack once nobody uses it any more."""
    narrate("stopping …")
    try:
        others = stop_stack(home)
        if others:
            used = ", ".join(f"{user.command} (pid {user.process.pid})" for user in others)
            narrate(f"these commands still use it and are waited for: {used}")
            narrate("  next: Ctrl-C again, or another SIGTERM, stops everything at once")
        while others:
            time.sleep(LOOK_SECONDS)
            others = stop_stack(home)
    except StackFailed as error:
        raise CommandFailed(str(error), hint=f"see {home.logs}", code=RUN_FAILED) from None


def stop_at_once(home: Home) -> None:
    try:
        stop_stack(home, even_if_used=True)
    except StackFailed as error:
        raise CommandFailed(str(error), hint=f"see {home.logs}", code=RUN_FAILED) from None


def warn_of_replicas(stack: Stack, wanted: int) -> None:
    running = sum(name.partition("-")[0] == "collector" for name in stack.components)
    if running != wanted:
        narrate(f"it ran already, with {count(running, 'replica')} of each service: --replicas has no effect now")


def tell(stack: Stack) -> None:
    """Addresses on stdout; what to do with them on stderr."""
    put(f"redis     {place_of(stack.redis_url)}")
    put(f"s3        {stack.s3_endpoint}")
    put(f"home      {stack.home.path}")
    put(f"passwords {stack.home.passwords_file}")
    put(f"logs      {stack.home.logs}")
    narrate(
        f"""
Everything runs. In another shell, with the same HELIOS_HOME ({stack.home.path}):
  helios run dag.yaml
With servers' own tools, after `eval "$(helios env)"`, which sets HELIOS_REDIS_URL and the S3 credentials:
  redis-cli -u "$HELIOS_REDIS_URL" XADD helios:submissions '*' dag "$(cat dag.yaml)" useCache true
  redis-cli -u "$HELIOS_REDIS_URL" HGETALL 'helios:{{p0}}:run:<the id that XADD printed>'
Ctrl-C stops everything."""
    )


def stay(home: Home, interrupts: Interrupts) -> bool:
    """Wait for the end, telling of troubles meanwhile; returns True when the stack ended by itself."""
    told: dict[str, str] = {}
    while not interrupts.wanted:
        stack = running_stack(home)
        if stack is None:
            narrate(f"the stack has ended by itself\n  next: see {home.logs}")
            return True
        for name, trouble in stack.troubles.items():
            if told.get(name) != trouble:
                narrate(f"{name} {trouble}\n  next: see {home.log(name)}")
        told = stack.troubles
        time.sleep(LOOK_SECONDS)
    return False
