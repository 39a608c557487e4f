"""When each Job's pod ended, as KWOK wrote it: the moment from which a collector's lag is counted."""

import threading
import time
from collections.abc import Sequence
from datetime import datetime

import msgspec

from bench.raw_jobs import pods_path
from services.collector.kube_api import Api, ApiAway
from services.collector.kube_objects import Listed, Pod, WatchLine

BEHIND_SECONDS = 30
QUIET_SECONDS = 90
"""So long the watch may have nothing to say: bookmarks come once a minute."""

_lines = msgspec.json.Decoder(WatchLine)
_pods = msgspec.json.Decoder(Pod)


class PodEnds:
    """Watches a namespace from its start on. What it knows comes from the pods' own statuses, so it may be slow."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.path = pods_path(namespace)
        self.ended_ms: dict[str, float] = {}
        self.stopped = False
        self.version = msgspec.json.decode(api.get(self.path), type=Listed).metadata.resourceVersion
        self.thread = threading.Thread(target=self._run, name="pod ends", daemon=True)
        self.thread.start()

    def of(self, jobs: Sequence[str]) -> dict[str, float]:
        """Epoch milliseconds of the end of each Job's pod; waits until the watch has shown them all."""
        deadline = time.monotonic() + BEHIND_SECONDS
        while missing := [job for job in jobs if job not in self.ended_ms]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no end was seen of the pods of {len(missing)} Jobs, such as {missing[0]}")
            time.sleep(0.1)
        return {job: self.ended_ms[job] for job in jobs}

    def stop(self) -> None:
        self.stopped = True

    def _run(self) -> None:
        while not self.stopped:
            query = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": self.version}
            try:
                with self.api.stream(self.path, query, silence_seconds=QUIET_SECONDS) as chunks:
                    rest = b""
                    for chunk in chunks:
                        *complete, rest = (rest + chunk).split(b"\n")
                        for line in complete:
                            self._take(_lines.decode(line))
            except ApiAway:
                continue  # it goes on from the last version

    def _take(self, line: WatchLine) -> None:
        if line.type == "ERROR":
            raise RuntimeError(f"the watch of pods is broken: {bytes(line.object)[:500]!r}")
        pod = _pods.decode(line.object)
        self.version = pod.metadata.resourceVersion
        task = pod.container("task")
        if line.type == "MODIFIED" and pod.job not in self.ended_ms and task is not None and task.ended is not None:
            self.ended_ms[pod.job] = datetime.fromisoformat(task.ended.message).timestamp() * 1000
