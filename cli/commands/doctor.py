"""`helios doctor`: one line for each thing Helios needs, and the fix for each that is amiss."""

import sys
from collections.abc import Iterator
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


def doctor(*, output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table") -> int:
    """Check everything Helios needs; each failure comes with its fix.

    Parameters
    ----------
    output
        table for people, json for a list of objects.
    """
    findings: list[Finding] = []
    code = SUCCEEDED
    for finding in examine():
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


def examine() -> Iterator[Finding]:
    """All checks; one that cannot be made because something below it failed is left out."""
    need = ALL
    if not uses_own_servers():
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
        if uses_own_servers():
            from cli.checkup_machine import check_store

            yield from check_store(read_settings())


def examine_link(link: Link) -> Iterator[Finding]:
    from cli.checkup_cluster import check_cluster, check_logins
    from cli.checkup_machine import check_cache, check_stack, check_store
    from cli.cluster_api import names_a_cluster

    yield from check_server(link)
    if link.stack is not None:
        yield from check_stack(link.stack)
    yield from check_services(link)
    yield from check_streams(link)
    yield from check_dead_letters(link)
    yield from check_runs(link)
    yield from check_store(link.settings)
    yield from check_cache(link.settings, is_local=link.stack is not None)
    # The embedded stack has no part in a cluster, whatever KUBECONFIG is set for.
    if link.stack is None and names_a_cluster():
        beats = live_services(link.client)
        yield from check_cluster(link.settings, beats, must_answer=True, must_have_helios=False)
        yield from check_logins(link)
