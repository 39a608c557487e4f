"""Which form a Job's pod gets: what HELIOS_JOB_FORM says, or with auto what the cluster is ready for.

Rule: a pod of the csi form on a node without an agent waits until somebody gives it up, while one of the init form runs
anywhere. So auto means csi only where every node that could take the task has registered the driver, and whatever
cannot be known makes it init. But tasks of the two forms run as different users, so what was csi stays so while a doubt
may pass: an API server that does not answer, an agent that is replaced, a node that has just joined. A Job that exists
keeps the form that it has.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
import structlog

from helios.dag import Task
from helios.settings import AGENT_DRIVER, Settings
from services.jobrunner.answers import decoded, is_missing, words_of
from services.jobrunner.jobs import Form, JobRefused

log = structlog.get_logger()

LOOK_SECONDS = 15.0
"""From one look at the cluster to the next."""

DOUBT_SECONDS = 120.0
"""So long a doubt must last to end csi; a pod that meets a node without the driver meanwhile waits for that there."""

MISSING_PATIENCE_SECONDS = 20.0
"""So long a driver that must be there is waited for: what installs it may be under way."""

CSI_DRIVER = f"/apis/storage.k8s.io/v1/csidrivers/{AGENT_DRIVER}"
CSI_NODES = "/apis/storage.k8s.io/v1/csinodes"
NODES = "/api/v1/nodes"

LIST_PAGE = 500
NODES_NAMED = 3

Get = Callable[[str], tuple[int, bytes]]
"""A path's status and body, whatever they are. Raises OSError when there is no answer."""


class Node(NamedTuple):
    """A node, and what decides whether it takes pods."""

    name: str
    ready: bool
    schedulable: bool
    tainted: bool
    """So that a pod without tolerations does not come there."""


class Decision(NamedTuple):
    """What Jobs get until the next look, and why."""

    form: Form
    why: str
    everywhere: bool = False
    """The nodes that only a pod with tolerations comes to have the driver too."""
    missing: bool = False
    """The cluster certainly has no such driver."""


def decide(nodes: Sequence[Node], served: Set[str]) -> Decision:
    """By the nodes, and the names of those that have registered the driver, where the cluster has it."""
    usable = [node for node in nodes if node.ready and node.schedulable]
    open_to_all = [node for node in usable if not node.tainted]
    lacking = [node.name for node in open_to_all if node.name not in served]
    if not open_to_all:
        return Decision("init", "no node is ready for tasks")
    if lacking:
        named = ", ".join(sorted(lacking)[:NODES_NAMED]) + (", …" if len(lacking) > NODES_NAMED else "")
        return Decision("init", f"{len(lacking)} of {len(open_to_all)} nodes have no driver {AGENT_DRIVER}: {named}")
    everywhere = all(node.name in served for node in usable)
    return Decision("csi", f"every node for tasks has the driver {AGENT_DRIVER}", everywhere)


class Forms:
    """Tells each Job's form. May be used by many threads at once."""

    def __init__(self, get: Get, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.get = get
        self.wanted = settings.job_form
        self.clock = clock
        self.looking = threading.Lock()
        self.standing: tuple[Decision, float] | None = None
        """What is decided, and since when that has been the same. Replaced whole, so reading takes no lock."""
        self.sure_at = 0.0
        """When a look last had no doubt."""

    def of(self, task: Task) -> Form:
        """The form of the task's Job. Only the first to ask waits for a look.

        Where it must be csi and the cluster has no driver: raises OSError at first, and JobRefused when that lasts.
        """
        if self.wanted == "init":
            return "init"
        if self.standing is None:
            self.look(only_first=True)
        assert self.standing is not None
        decision, since = self.standing
        if self.wanted == "csi":
            if decision.missing:
                self._bear_no_driver(decision.why, since)
            return "csi"
        return "init" if task.tolerations and not decision.everywhere else decision.form

    def look(self, only_first: bool = False) -> None:
        """Decide anew, or only if nothing is decided yet."""
        if self.wanted == "init":
            return
        with self.looking:
            if only_first and self.standing is not None:
                return
            try:
                found = self._seen()
            except OSError as error:
                found = Decision("init", f"the cluster cannot be looked at: {error}")
            now, is_doubt = self.clock(), found.form == "init" and not found.missing
            if not is_doubt:
                self.sure_at = now
            elif self.standing is not None and self.standing[0].form == "csi" and now - self.sure_at < DOUBT_SECONDS:
                log.warning("Jobs keep the form csi for now", reason=found.why)
                return
            if self.standing is None or found != self.standing[0]:
                form = "csi" if self.wanted == "csi" else found.form
                log.info("Jobs get this form from now on", form=form, setting=self.wanted, reason=found.why)
                self.standing = found, now

    def _seen(self) -> Decision:
        """What the cluster is ready for. Where it must be csi, nothing but the driver is looked at. Raises OSError."""
        code, body = self.get(CSI_DRIVER)
        if is_missing(code, body, "csidrivers"):
            return Decision("init", f"the cluster has no CSIDriver {AGENT_DRIVER}", missing=True)
        if code != 200:
            raise OSError(words_of(code, body))
        if self.wanted == "csi":
            return Decision("csi", f"the cluster has a CSIDriver {AGENT_DRIVER}")
        served = {
            each.metadata.name
            for each in self._all(CSI_NODES, _CsiNodes)
            if any(driver.name == AGENT_DRIVER for driver in each.spec.drivers or ())
        }
        return decide([_node(each) for each in self._all(NODES, _Nodes)], served)

    def _all(self, path: str, kind: Any) -> Iterator[Any]:
        following = ""
        while True:
            code, body = self.get(f"{path}?{urlencode({'limit': LIST_PAGE, 'continue': following})}")
            if code != 200:
                raise OSError(words_of(code, body))
            page = decoded(body, kind)
            yield from page.items or ()
            following = page.metadata.next
            if not following:
                return

    def _bear_no_driver(self, why: str, since: float) -> None:
        words = f"HELIOS_JOB_FORM is csi, but {why}"
        if self.clock() - since < MISSING_PATIENCE_SECONDS:
            raise OSError(words)
        raise JobRefused(words)


class _Named(msgspec.Struct):
    name: str = ""


class _ListMeta(msgspec.Struct, rename={"next": "continue"}):
    next: str = ""


class _CsiNodeSpec(msgspec.Struct):
    drivers: list[_Named] | None = None


class _CsiNode(msgspec.Struct):
    metadata: _Named
    spec: _CsiNodeSpec


class _CsiNodes(msgspec.Struct):
    metadata: _ListMeta
    items: list[_CsiNode] | None = None


class _Taint(msgspec.Struct):
    effect: str = ""


class _NodeSpec(msgspec.Struct):
    unschedulable: bool = False
    taints: list[_Taint] | None = None


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _NodeStatus(msgspec.Struct):
    conditions: list[_Condition] | None = None


class _Node(msgspec.Struct):
    metadata: _Named
    spec: _NodeSpec
    status: _NodeStatus


class _Nodes(msgspec.Struct):
    metadata: _ListMeta
    items: list[_Node] | None = None


def _node(found: _Node) -> Node:
    return Node(
        found.metadata.name,
        ready=any(each.type == "Ready" and each.status == "True" for each in found.status.conditions or ()),
        schedulable=not found.spec.unschedulable,
        tainted=any(each.effect in ("NoSchedule", "NoExecute") for each in found.spec.taints or ()),
    )
