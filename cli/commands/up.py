"""`helios up`: the embedded stack in the foreground, until Ctrl-C or SIGTERM."""

import os
import time
from importlib.util import find_spec

from cli.connection import ALL, place_of, stack_ready, uses_own_servers
from cli.embedded.home import Home, home_from
from cli.embedded.lease import StackFailed, running_stack, stop_stack
from cli.embedded.ports import accepts
from cli.embedded.stack import Stack
from cli.embedded.users import users
from cli.failure import RUN_FAILED, SUCCEEDED, CommandFailed, with_extra
from cli.figures import count
from cli.interrupts import Interrupts
from cli.output import narrate, put

LOOK_SECONDS = 0.25
MOST_REPLICAS = 16
HTTP_SECONDS = 30.0
UNUSED_SECONDS = 10.0


def up(*, replicas: int = 1, metrics: str | None = None, http: int | None = None) -> int:
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
    http
        Serve the HTTP API, too, at this port of this machine; its token is made once for each home.
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
    if http is not None:
        check_http(http)
    home = home_from()
    if replicas > 1 or metrics or http is not None:
        await_end_of_unused(home)
    lost = False
    with Interrupts() as interrupts:
        try:
            with stack_ready(ALL, replicas=replicas, http_port=http or 0) as stack:
                await_http(stack, http)
                tell(stack)
                warn_of_replicas(stack, replicas)
                lost = stay(home, interrupts)
            stop(home)
        except KeyboardInterrupt:
            narrate("stopping everything at once …")
            stop_at_once(home)
    narrate("stopped")
    return RUN_FAILED if lost else SUCCEEDED


def await_end_of_unused(home: Home) -> None:
    """What an earlier command has left behind ends within seconds, and is without what is asked for now."""
    deadline = time.monotonic() + UNUSED_SECONDS
    while running_stack(home) is not None and not users(home) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def check_http(port: int) -> None:
    """Raises CommandFailed for a port that cannot be used, or without the extra that the API needs."""
    if not 1 <= port <= 65535:
        raise CommandFailed(f"--http is {port}", hint="give a port from 1 to 65535")
    if accepts(port) and running_stack(home_from()) is None:
        raise CommandFailed(f"another process listens at port {port}", hint="give another port")
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise CommandFailed("the HTTP API is not installed", hint=with_extra("http"))


def await_http(stack: Stack, wanted: int | None) -> None:
    """Until the API answers. Raises CommandFailed when it does not."""
    if wanted is None:
        return
    if stack.http_port != wanted:
        place = f"at port {stack.http_port}" if stack.http_port else "without the HTTP API"
        narrate(f"it ran already, {place}: --http has no effect now")
        return
    deadline = time.monotonic() + HTTP_SECONDS
    while not accepts(wanted):
        running = running_stack(stack.home)
        trouble = running.troubles.get("api") if running is not None else "it has ended"
        if trouble or time.monotonic() > deadline:
            raise CommandFailed(
                f"the HTTP API does not serve at port {wanted}: {(trouble or 'it is not up in time').splitlines()[0]}",
                hint=f"give another port, or see {stack.home.log('api')}",
                code=RUN_FAILED,
            )
        time.sleep(LOOK_SECONDS)


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
    if stack.http_port:
        put(f"http      http://127.0.0.1:{stack.http_port}/api/v1")
        put(f"token     {stack.home.http_token_file}")
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
