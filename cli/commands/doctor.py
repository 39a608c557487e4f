"""`helios doctor`: one line for each thing Helios needs, and the fix for each that is amiss."""

import sys
from collections.abc import Generator, Iterator
from typing import Annotated

import msgspec
from cyclopts import Parameter

from cli.checkup import Finding, check_dead_letters, check_runs, check_server, check_services, check_streams
from cli.connection import ALL, REDIS, Link, connected, read_settings, uses_own_servers
from cli.failure import RUN_FAILED, SUCCEEDED, UNREACHABLE, CommandFailed
from cli.output import Format, narrate, put, put_json, styled
from cli.table import width
from helios.heartbeat import live_services

CHECK_COLUMNS = 28


def doctor(
    *, cluster: bool | None = None, output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table"
) -> int:
    """Check everything Helios needs; each failure comes with its fix.

    Parameters
    ----------
    cluster
        Look at the Kubernetes cluster, and fail when it cannot be reached or has no Helios; --no-cluster leaves it out.
        Without either it is looked at when KUBECONFIG is set.
    output
        table for people, json for a list of objects.
    """
    findings: list[Finding] = []
    code = SUCCEEDED
    for finding in examine(cluster):
        findings.append(finding)
        if not finding.ok:
            code = UNREACHABLE if finding.check == "redis" or code == UNREACHABLE else RUN_FAILED
        if output == "table":
            put(line(finding))
    if output == "json":
        put_json([msgspec.to_builtins(finding) for finding in findings])
    failed = sum(not finding.ok for finding in findings)
    narrate("everything is well" if not failed else f"{failed} of {len(findings)} checks failed")
    return code


def line(finding: Finding) -> str:
    word = styled("ok    ", "green", sys.stdout) if finding.ok else styled("failed", "red", sys.stdout)
    gap = " " * max(1, CHECK_COLUMNS - width(finding.check))
    fix = f"\n        fix: {finding.fix}" if finding.fix else ""
    return f"{word}  {finding.check}{gap}{finding.detail}{fix}"


def examine(cluster: bool | None = None) -> Iterator[Finding]:
    """All checks; one that cannot be made because something below it failed is left out.

    `cluster` says whether Kubernetes is looked at; None means if KUBECONFIG is set. What there is to check without
    HELIOS_REDIS_URL is the cluster if it has a Helios, else the embedded stack, and never both: whoever names a cluster
    with Helios means that one, and the other would have to be started for the sake of the question.
    """
    from cli.cluster_api import names_a_cluster

    looked_at = names_a_cluster() if cluster is None else cluster
    insisted = cluster is True
    if uses_own_servers():
        beats = yield from examine_own_servers(in_cluster=looked_at)
        if looked_at:
            from cli.checkup_cluster import check_cluster

            yield from check_cluster(read_settings(), beats, must_answer=True, must_have_helios=insisted)
        return
    if looked_at:
        from cli.checkup_cluster import REACHING, check_cluster

        there = yield from check_cluster(read_settings(), None, must_answer=insisted, must_have_helios=insisted)
        if there:
            yield Finding("redis", True, "not looked at: HELIOS_REDIS_URL is not set")
            narrate(f"to look at Redis and the object store too:\n{REACHING}")
        if there or insisted:
            return
    yield from examine_embedded()


def examine_own_servers(*, in_cluster: bool) -> Generator[Finding, None, list[dict[str, str]] | None]:
    """The answer is the heartbeats in Redis, None when it was not reached."""
    try:
        with connected(ALL) as link:
            yield from examine_link(link)
            if in_cluster:
                from cli.checkup_cluster import check_logins

                yield from check_logins(link)
            return live_services(link.client)
    except CommandFailed as failure:
        from cli.checkup_machine import check_store

        yield Finding("redis", False, failure.message, failure.hint)
        yield from check_store(read_settings())
        return None


def examine_embedded() -> Iterator[Finding]:
    need = ALL
    try:
        with connected(ALL):
            pass
    except CommandFailed as failure:
        yield Finding("embedded stack", False, failure.message, failure.hint)
        need = REDIS
    try:
        with connected(need) as link:
            yield from examine_link(link)
    except CommandFailed as failure:
        yield Finding("redis", False, failure.message, failure.hint)


def examine_link(link: Link) -> Iterator[Finding]:
    from cli.checkup_machine import check_cache, check_stack, check_store

    yield from check_server(link)
    if link.stack is not None:
        yield from check_stack(link.stack)
    yield from check_services(link)
    yield from check_streams(link)
    yield from check_dead_letters(link)
    yield from check_runs(link)
    yield from check_store(link.settings)
    yield from check_cache(link.settings, is_local=link.stack is not None)
