"""What `helios doctor` finds out about images: what the manifests want, what the nodes run, and what that was built as.

A tag can be moved and a node keeps what it pulled under one, so old code may run under a new name. Two things do not
lie: the digest of what runs, and the tag that was written into the image when it was built, which each replica tells in
its heartbeat.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from cli.checkup import Finding
from cli.cluster_api import Api, find
from cli.cluster_pods import Pod, Workload, read_task_pods, read_workloads, short, tag_of
from cli.figures import count

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
APPLY = "kubectl apply -k k8s/"
APPLY_CSI = "kubectl apply -k k8s/overlays/csi"
ONE_TAG_EACH = "give each build a tag of its own (make images TAG=…): nodes keep what they pulled under a tag"

Beats = Sequence[Mapping[str, str]]
"""Heartbeats; the replica of a pod has the pod's name."""


def check_images(api: Api, tasks: str, beats: Beats | None, apply: str) -> Iterator[Finding]:
    """One line for each workload, one for the pods of tasks. Without `beats` nobody says what an image was built as.

    `apply` installs what is not there.
    """
    digests: dict[str, set[str]] = defaultdict(set)
    launcher: str | None = None
    for workload in read_workloads(api, tasks):
        if workload.name == "helios-jobrunner":
            launcher = workload.image
        _note(digests, workload.pods)
        yield check_workload(workload, beats, apply)
    running = read_task_pods(api, tasks)
    _note(digests, running)
    yield Finding("image of task pods", True, _named(running) if running else "none with a fetch of its own runs now")
    for image, found in sorted(digests.items()):
        if len(found) > 1:
            detail = f"{image} is {len(found)} images: {', '.join(sorted(short(digest) for digest in found))}"
            yield Finding("image tag", False, detail, ONE_TAG_EACH)
    if launcher is not None:
        yield from check_agent_image(api, launcher)


def check_workload(workload: Workload, beats: Beats | None, apply: str) -> Finding:
    check, wanted = f"image of {workload.name}", workload.image
    if wanted is None:
        return Finding(check, False, "it is not there", apply)
    own = [beat for beat in beats or () if beat["service"] == workload.service]
    told = [beat for beat in own if beat["replica"] in {pod.name for pod in workload.pods}]
    rollout = f"kubectl -n {workload.namespace} rollout status {workload.kind}/{workload.name}"
    if others := sorted({pod.image for pod in workload.pods} - {wanted}):
        return Finding(check, False, f"{wanted} is wanted, but {', '.join(others)} runs", rollout)
    if not workload.pods:
        return Finding(check, False, f"{wanted}: no pod runs", rollout)
    tag, built = tag_of(wanted), sorted({beat["image"] for beat in told if beat.get("image")})
    if tag and (wrong := [each for each in built if each != tag]):
        detail = f"{wanted} is wanted, but what runs under that name was built as {', '.join(wrong)}"
        return Finding(check, False, detail, ONE_TAG_EACH)
    parts = [
        f"{wanted} in {count(len(workload.pods), 'pod')}",
        *(f"version {version}" for version in sorted({beat["version"] for beat in told})),
        *(f"built as {each}" for each in built),
        *sorted({short(pod.digest) for pod in workload.pods}),
    ]
    if len(own) > len(told):
        strangers = sorted(beat["replica"] for beat in own if beat not in told)
        parts.append(f"and outside of its pods {', '.join(strangers)}")
    if workload.ready < workload.wanted:
        return Finding(check, False, f"{', '.join(parts)}; {workload.ready} of {workload.wanted} ready", rollout)
    return Finding(check, True, ", ".join(parts))


def check_agent_image(api: Api, wanted: str) -> Iterator[Finding]:
    """The admission policy lets in the pods that the jobrunner makes."""
    policy = find(api, f"{ADMISSION}/validatingadmissionpolicies/helios-tasks")
    if policy is None:
        return
    expressions = {each["name"]: each["expression"] for each in policy["spec"].get("variables", ())}
    if "agent" not in expressions:  # with k8s/overlays/csi pods of tasks have no image of ours
        return
    allowed = expressions["agent"].strip("'")
    if allowed == wanted:
        yield Finding("agent image", True, allowed)
        return
    fix = f"{APPLY}: an overlay that sets the image must repeat the replacements of k8s/base"
    yield Finding("agent image", False, f"{allowed}, but the jobrunner's is {wanted}", fix)


def _note(digests: dict[str, set[str]], pods: Sequence[Pod]) -> None:
    for pod in pods:
        digests[pod.image].add(pod.digest)


def _named(pods: Sequence[Pod]) -> str:
    """Each image with its digests and the number of its pods."""
    images = sorted({pod.image for pod in pods})
    return "; ".join(
        f"{image} in {count(sum(pod.image == image for pod in pods), 'pod')}, "
        + ", ".join(sorted({short(pod.digest) for pod in pods if pod.image == image}))
        for image in images
    )
