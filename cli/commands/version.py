"""`helios version`: which Helios this is, and which the services are."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cli.failure import SUCCEEDED, CommandFailed
from cli.output import Format, narrate, put, put_json, styled
from helios.version import VERSION

if TYPE_CHECKING:
    from cli.cluster_pods import Workload
    from helios.settings import Settings

Row = dict[str, str | None]

TITLES = {
    "service": "SERVICE",
    "replica": "REPLICA",
    "version": "VERSION",
    "image": "IMAGE",
    "podImage": "POD IMAGE",
    "digest": "DIGEST",
}


def version(*, services: bool = False, output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table") -> int:
    """Print the version.

    Parameters
    ----------
    services
        Also every replica's version and the tag its image was built with, and, of the cluster that KUBECONFIG names,
        which image its pod asks for and which digest it got. Needs HELIOS_REDIS_URL.
    output
        table for people, json for an object.
    """
    rows = _service_rows() if services else []
    if output == "json":
        put_json({"version": VERSION, **({"services": rows} if services else {})})
        return SUCCEEDED
    put(VERSION)
    if services:
        _put_table(rows)
    return SUCCEEDED


def _service_rows() -> list[Row]:
    from cli.connection import connected, uses_own_servers
    from helios.heartbeat import live_services

    if not uses_own_servers():
        hint = 'set HELIOS_REDIS_URL; for the embedded services: eval "$(helios env)"'
        raise CommandFailed("HELIOS_REDIS_URL is not set, so there is nobody to ask for the services", hint=hint)
    with connected() as link:
        beats = live_services(link.client)
        settings = link.settings
    return joined(beats, _workloads(settings))


def _workloads(settings: "Settings") -> "list[Workload]":
    """Those of the cluster, as far as it can be asked; none without one."""
    from cli.cluster_api import ApiAway, ApiRefused, cluster_api, names_a_cluster
    from cli.cluster_pods import read_workloads

    if not names_a_cluster():
        return []
    try:
        return list(read_workloads(cluster_api(), settings.namespace))
    except (ApiAway, ApiRefused) as error:
        narrate(f"the cluster is not looked at: {error}")
        return []


def joined(beats: Sequence[Mapping[str, str]], workloads: "Sequence[Workload]") -> list[Row]:
    """A row for each heartbeat, with its pod if there is one, and for each pod without a heartbeat, such as the
    keeper's: it cannot reach Redis. What is not known is None.
    """
    from cli.cluster_pods import short

    rows: dict[str, Row] = {}
    for workload in workloads:
        for pod in workload.pods:
            unknown = dict.fromkeys(TITLES)
            known = {"service": workload.service, "podImage": pod.image, "digest": short(pod.digest)}
            rows[pod.name] = {**unknown, "replica": pod.name, **known}
    for beat in beats:
        told = {name: beat.get(name) or None for name in ("service", "replica", "version", "image")}
        rows[beat["replica"]] = {**rows.get(beat["replica"], dict.fromkeys(TITLES)), **told}
    return sorted(rows.values(), key=lambda row: (row["service"] or "", row["replica"] or ""))


def _put_table(rows: Sequence[Row]) -> None:
    from cli.table import Column, lay_out

    if not rows:
        narrate("no service gives a sign of life")
        return
    columns = [Column(title) for title in TITLES.values()]
    cells = [[row[name] or "" for name in TITLES] for row in rows]
    put("\n".join(lay_out(columns, cells, lambda text, style: styled(text, style, sys.stdout))))
