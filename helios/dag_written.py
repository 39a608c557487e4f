"""A checked DAG back into the format that users write, so that it can be submitted again. No I/O happens here."""

from typing import Any

import msgspec

from helios.dag import Dag, EnvSecret, Input, Memoize, Task, TaskInput
from helios.dag_binding import escaped
from helios.dag_params import BEGINNING


def written(stored: bytes) -> bytes:
    """JSON that `parse_dag` reads as the same DAG, from the DAG as Redis keeps it. Raises msgspec.DecodeError."""
    dag = msgspec.json.decode(stored, type=Dag)
    if dag.growth is not None:
        return dag.growth.spec.encode()
    document: dict[str, Any] = {"dagName": dag.dag_name, "useCache": dag.use_cache, "priority": dag.priority}
    document["tasks"] = [_task(task) for task in dag.tasks if task.name != dag.on_exit]
    if dag.on_exit is not None:
        document["onExit"] = _task(dag.tasks[-1])
    if dag.notify:
        document["notify"] = dag.notify
    # The tasks hold the values already. Text that merely looks like a parameter is told apart wherever params is there.
    if dag.params or BEGINNING.encode() in stored:
        document["params"] = dag.params
    return msgspec.json.encode(document)


def _task(task: Task) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": task.name, "image": escaped(task.image), "command": _texts(task.command)}
    optional: dict[str, Any] = {
        "args": _texts(task.args),
        "depends_on": task.depends_on,
        "inputs": [_input(source) for source in task.inputs],
        "outputs": _texts(task.outputs),
        "retries": {"count": task.retries} if task.retries else None,
        "env": {
            each.name: {"secret": each.secret, "key": each.key} if isinstance(each, EnvSecret) else escaped(each.value)
            for each in task.env
        },
        "resources": {
            name: quantities
            for name, quantities in (("requests", task.requests), ("limits", task.limits))
            if quantities
        },
        "timeoutSeconds": task.timeout_seconds,
        "nodeSelector": task.node_selector,
        "tolerations": task.tolerations,
        "serviceAccountName": task.service_account_name,
        "memoize": _memoize(task.memoize) if task.memoize is not None else None,
        "priority": task.priority,
    }
    return {**shown, **{name: value for name, value in optional.items() if value}}


def _texts(texts: tuple[str, ...]) -> list[str]:
    return [escaped(text) for text in texts]


def _memoize(memoize: Memoize) -> dict[str, Any] | bool:
    options: dict[str, Any] = {
        "maxAge": f"{memoize.max_age_seconds}s" if memoize.max_age_seconds is not None else None,
        "verify": memoize.verify,
    }
    return {name: value for name, value in options.items() if value} or True


def _input(source: Input) -> dict[str, Any]:
    origin = (
        {"fromTask": source.from_task, "name": escaped(source.name)}
        if isinstance(source, TaskInput)
        else {"uri": escaped(source.uri)}
    )
    return {**origin, "as": escaped(source.as_), "mode": source.mode, "verify": source.verify}
