"""`python -m services.collector`: the watching loop, and the pod endpoint on threads of its own."""

import socket
import sys
import threading
from pathlib import Path
from typing import Any

import redis
import structlog
from waitress.server import create_server

from helios.heartbeat import Heartbeat
from helios.keys import COLLECTOR_GROUP, all_partitions, keys_of_run
from helios.localjobs import LocalJob
from helios.settings import SettingInvalid, Settings, settings_from
from helios.streams import Inbox
from helios.worker import Stop, work
from services.collector.collect import Collector
from services.collector.endpoint import BODY_BYTES, PodEndpoint
from services.collector.pods import LocalPods, Pods
from services.collector.store import Store
from services.process import configure_logging, connect, repeat, run_loops

log = structlog.get_logger()

SWEEP_SECONDS = 30
ENDPOINT_THREADS = 8


def run(settings: Settings, pods: Pods, client: redis.Redis, stop: Stop, *others: Any) -> None:
    """Serve launched Jobs and settled runs until stopped, with `others` beside."""
    partitions = all_partitions(settings.partitions)
    inbox = Inbox(
        client,
        group=COLLECTOR_GROUP,
        consumer=settings.replica,
        streams=[stream for keys in partitions for stream in (keys.launched, keys.settled)],
        batch_entries=settings.batch_entries,
        lease_seconds=settings.lease_seconds,
    )
    collector = Collector(client, inbox, pods, settings)
    heartbeat = Heartbeat(client, "collector", settings.replica)
    run_loops(
        stop,
        lambda: work(
            inbox, collector.handle, settings=settings, stop=stop, heartbeat=heartbeat, on_turn=collector.turn
        ),
        *others,
    )
    heartbeat.end()


class Endpoint:
    """Serves the pod endpoint until it is closed. Replicas on one machine share the port."""

    def __init__(self, application: PodEndpoint, bind: str) -> None:
        host, _, port = bind.rpartition(":")
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host.strip("[]"), int(port)))
        self.server: Any = create_server(
            application,
            sockets=[listener],
            threads=ENDPOINT_THREADS,
            max_request_body_size=BODY_BYTES,
            ident="helios",
            clear_untrusted_proxy_headers=True,
        )

    def serve(self) -> None:
        self.server.run()

    def close(self) -> None:
        self.server.close()


def sweep(pods: LocalPods, client: redis.Redis, settings: Settings) -> None:
    """Release pods that were wrapped up but whose release was lost, as when a collector died just then."""
    over = pods.pods()
    if not over:
        return
    ended: list[str] = []
    for status in over:
        try:
            if not _is_to_be_launched(pods.job(status.job), client, settings):
                ended.append(status.job)
        except (OSError, ValueError, redis.ResponseError) as error:
            log.error("a pod cannot be looked at", job=status.job, error=str(error))
    # Read last, so that an attempt found launched above is in here unless it has been wrapped up since.
    launched: set[str] = set()
    for keys in all_partitions(settings.partitions):
        entries: Any = client.xrange(keys.launched)
        launched |= {fields.get("job", "") for _, fields in entries}
    for name in ended:
        if name not in launched:
            pods.release(name)


def _is_to_be_launched(job: LocalJob | None, client: redis.Redis, settings: Settings) -> bool:
    """Whether the Job exists and its launch is about to be recorded."""
    if job is None:
        return False
    keys = keys_of_run(job.run, settings.partitions)
    found: Any = client.hmget(keys.task(job.run, job.task), "status", "attempt")
    return found[0] == "QUEUED" and found[1] == str(job.attempt)


def main() -> None:
    try:
        settings = settings_from()
    except SettingInvalid as error:
        sys.exit(str(error))
    configure_logging("collector", settings.log_level)
    if not settings.local_dir or not settings.token_key:
        sys.exit("HELIOS_LOCAL_DIR and HELIOS_TOKEN_KEY must be set; `helios up` sets both")
    stop = Stop()
    stop.listen()
    client = connect(settings)
    pods = LocalPods(Path(settings.local_dir))
    endpoint = Endpoint(PodEndpoint(client, Store(settings), settings), settings.pod_endpoint_bind)
    threading.Thread(target=endpoint.serve, name="endpoint", daemon=True).start()
    log.info("serving pods", bind=settings.pod_endpoint_bind)
    run(settings, pods, client, stop, lambda: repeat(stop, SWEEP_SECONDS, lambda: sweep(pods, client, settings)))
    endpoint.close()


if __name__ == "__main__":
    main()
