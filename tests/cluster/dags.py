"""DAGs for the tests, of tasks that run a shell script in the tests' busybox."""

from typing import Any

from tests.cluster.installed import Installed

Task = dict[str, Any]


def script(helios: Installed, name: str, text: str, **more: Any) -> Task:
    return {"name": name, "image": helios.cluster.task_image, "command": ["sh", "-ec", text], **more}


def on(node: str) -> dict[str, Any]:
    """A task held to one node."""
    return {"nodeSelector": {"kubernetes.io/hostname": node}}


def dag(name: str, *tasks: Task) -> dict[str, Any]:
    return {"dagName": name, "tasks": list(tasks)}


def many(helios: Installed, name: str, count: int, text: str, **more: Any) -> dict[str, Any]:
    """Independent tasks that do the same; each has its own number in $N."""
    tasks = [script(helios, f"t{n:03}", text, env={"N": str(n)}, **more) for n in range(count)]
    return dag(name, *tasks)
