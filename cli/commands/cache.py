"""`helios cache stats`: what the caches of the nodes saved."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from cli.cache_stats import CacheStats, NodeCache, Sums, node_cache_of, stats_lines, stats_object, total_of
from cli.checkup import server_ms
from cli.commands.runs import paint
from cli.connection import Link, connected
from cli.failure import SUCCEEDED, CommandFailed
from cli.output import Format, narrate, put, put_json
from helios.dag_problem import nearest
from helios.keys import NODE_COUNTED, NODES, node_cache
from helios.wire import send


def cache(
    what: Literal["stats"],  # noqa: ARG001 -- there is one thing to ask for
    /,
    *,
    dag: str | None = None,
    node: str | None = None,
    output: Annotated[Format, Parameter(name=["--output", "-o"])] = "table",
) -> int:
    """Show what the cache saved over all runs that ended, also those that are no longer kept.

    SAVED is what the hits would have taken to download, by how long each blob's own download took, else by the node's
    measured rate. SPENT is what bringing inputs took. Both are added up over inputs, which are brought side by side, so
    runs got faster by less.

    Parameters
    ----------
    what
        stats: totals, by DAG, by node, and why inputs missed.
    dag
        Only runs of the DAG with this dagName.
    node
        Only what happened on this node.
    output
        table for people, json for one object.
    """
    if dag is not None and node is not None:
        raise CommandFailed("--dag and --node are counted apart", hint="give one of them")
    with connected() as link:
        stats = read_stats(link, dag=dag, node=node)
        if output == "json":
            put_json(stats_object(stats))
            return SUCCEEDED
        if not stats.total.runs:
            narrate("nothing has been counted yet: a run counts when it ends\n  next: helios run FILE")
        lines = stats_lines(stats, server_ms(link), paint)
        if lines:
            put("\n".join(lines))
        return SUCCEEDED


def read_stats(link: Link, *, dag: str | None = None, node: str | None = None) -> CacheStats:
    """Everything, or one DAG's or one node's; raises CommandFailed where nothing is known of that."""
    sums = _read_sums(link)
    dags = {name: each for name, each in sums.items() if not name.startswith(NODE_COUNTED)}
    nodes = {name.removeprefix(NODE_COUNTED): each for name, each in sums.items() if name.startswith(NODE_COUNTED)}
    caches = _read_caches(link, nodes)
    if dag is not None:
        _check(dag, dags, "DAG")
        return CacheStats(dags[dag], {dag: dags[dag]}, {}, {})
    if node is not None:
        _check(node, {*nodes, *caches}, "node")
        mine = nodes.get(node, Sums())
        return CacheStats(mine, {}, {node: mine} if mine.runs else {}, {n: c for n, c in caches.items() if n == node})
    return CacheStats(total_of(dags.values()), dags, nodes, caches)


def _check(named: str, known: Iterable[str], kind: str) -> None:
    names = list(known)
    if named not in names:
        near = nearest(named, names)
        hint = f"did you mean {near!r}?" if near else "`helios cache stats` lists those that are known"
        raise CommandFailed(f"nothing has been counted of a {kind} {named!r}", hint=hint)


def _read_sums(link: Link) -> dict[str, Sums]:
    """By member of `counted`, over all partitions."""
    partitions = link.partitions
    indexes = send(link.client, [("ZRANGE", keys.counted, 0, -1) for keys in partitions])
    wanted = [(keys, whose) for keys, index in zip(partitions, indexes, strict=True) for whose in _listed(index)]
    found: dict[str, Sums] = {}
    for (_, whose), fields in zip(wanted, _hashes(link, [keys.stats(whose) for keys, whose in wanted]), strict=True):
        found.setdefault(whose, Sums()).add(fields)
    return found


def _read_caches(link: Link, counted: Iterable[str]) -> dict[str, NodeCache]:
    """Of every node whose keeper speaks, and of those that ran tasks."""
    names = sorted({*_listed(send(link.client, [("ZRANGE", NODES, 0, -1)])[0]), *counted})
    hashes = _hashes(link, [node_cache(name) for name in names])
    caches = ((name, node_cache_of(fields)) for name, fields in zip(names, hashes, strict=True))
    return {name: cache for name, cache in caches if cache is not None}


def _listed(reply: Any) -> list[str]:
    """Members; none where the key is damaged, since these are figures to look at."""
    return list(reply) if isinstance(reply, list) else []  # pyright: ignore[reportUnknownArgumentType] -- what Redis answers


def _hashes(link: Link, names: list[str]) -> list[dict[str, str]]:
    replies = send(link.client, [("HGETALL", name) for name in names])
    return [_pairs(reply) for reply in replies]


def _pairs(reply: Any) -> dict[str, str]:
    if isinstance(reply, dict):
        return reply  # pyright: ignore[reportUnknownVariableType] -- what Redis answers
    flat = _listed(reply)
    return dict(zip(flat[::2], flat[1::2], strict=True))
