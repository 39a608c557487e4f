"""What is read of Kubernetes objects: the few fields that decide something, decoded straight from the API's JSON."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

JOB_LABEL = "helios.dev/job"
RUN_NOTE = "helios.dev/run"
TASK_NOTE = "helios.dev/task"
ATTEMPT_NOTE = "helios.dev/attempt"
FORM_NOTE = "helios.dev/form"
FINALIZER = "helios.dev/result"
MANAGED = "app.kubernetes.io/managed-by=helios"


class Meta(msgspec.Struct, kw_only=True):
    name: str = ""
    uid: str = ""
    resourceVersion: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: Sequence[str] = ()
    creationTimestamp: datetime | None = None
    deletionTimestamp: datetime | None = None
    deletionGracePeriodSeconds: int | None = None


class Waiting(msgspec.Struct):
    reason: str = ""
    message: str = ""


class Running(msgspec.Struct):
    startedAt: datetime | None = None


class Terminated(msgspec.Struct, kw_only=True):
    exitCode: int = 0
    reason: str = ""
    message: str = ""
    startedAt: datetime | None = None
    finishedAt: datetime | None = None


class ContainerState(msgspec.Struct):
    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct):
    name: str
    state: ContainerState = msgspec.field(default_factory=ContainerState)
    lastState: ContainerState = msgspec.field(default_factory=ContainerState)
    imageID: str = ""

    @property
    def ended(self) -> Terminated | None:
        """How it ended; a container that a restarted kubelet began anew has its first end in `lastState`."""
        return self.state.terminated or (None if self.state.running else self.lastState.terminated)

    @property
    def began(self) -> bool:
        return self.state.running is not None or self.ended is not None


class Condition(msgspec.Struct):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class PodSpec(msgspec.Struct):
    nodeName: str = ""


class PodState(msgspec.Struct, kw_only=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: Sequence[Condition] = ()
    containerStatuses: Sequence[ContainerStatus] = ()


class Pod(msgspec.Struct):
    metadata: Meta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodState = msgspec.field(default_factory=PodState)

    @property
    def job(self) -> str:
        return self.metadata.labels.get(JOB_LABEL, "")

    @property
    def by_agent(self) -> bool:
        """Whether it is of the csi form: the task alone, whose node's agent does fetch and publish."""
        return self.metadata.annotations.get(FORM_NOTE) == "csi"

    def container(self, name: str) -> ContainerStatus | None:
        return next((each for each in self.status.containerStatuses if each.name == name), None)

    def condition(self, kind: str) -> Condition | None:
        return condition(self.status.conditions, kind)


class JobState(msgspec.Struct):
    conditions: Sequence[Condition] = ()


class Job(msgspec.Struct):
    metadata: Meta
    status: JobState = msgspec.field(default_factory=JobState)


class NodeState(msgspec.Struct):
    conditions: Sequence[Condition] = ()


class Node(msgspec.Struct):
    metadata: Meta
    status: NodeState = msgspec.field(default_factory=NodeState)

    @property
    def ready(self) -> bool:
        found = condition(self.status.conditions, "Ready")
        return found is not None and found.status == "True"


class About(msgspec.Struct):
    """The object that an event is about."""

    name: str = ""


class Happening(msgspec.Struct):
    """A core/v1 Event."""

    involvedObject: About = msgspec.field(default_factory=About)
    type: str = ""
    reason: str = ""
    message: str = ""
    lastTimestamp: datetime | None = None


class ListMeta(msgspec.Struct, rename={"next_page": "continue"}):
    resourceVersion: str = ""
    next_page: str = ""


class Listed(msgspec.Struct):
    """One page of a list; its items are decoded as what they are."""

    metadata: ListMeta
    items: Sequence[msgspec.Raw] | None = None


class WatchLine(msgspec.Struct):
    """One line of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: msgspec.Raw


class Versioned(msgspec.Struct):
    """Any object, as far as a watch needs it to go on from there."""

    metadata: Meta


class ApiStatus(msgspec.Struct):
    """The API server's own words on an error."""

    message: str = ""
    reason: str = ""
    code: int = 0


def condition(conditions: Sequence[Condition], kind: str) -> Condition | None:
    return next((each for each in conditions if each.type == kind), None)
