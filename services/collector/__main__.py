"""`python -m services.collector`: the watching loop, and the pod endpoint on threads of its own."""

import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis
import structlog
from waitress.server import create_server
from waitress.wasyncore import dispatcher

from helios.heartbeat import Heartbeat
from helios.keys import COLLECTOR_GROUP, all_partitions, keys_of_run
from helios.recovery import Patience
from helios.settings import SettingInvalid, Settings
from helios.streams import Inbox
from helios.worker import Stop, work
from services.collector.collect import Collector
from services.collector.endpoint import BODY_BYTES, PodEndpoint
from services.collector.ends import Manifest, no_manifest
from services.collector.keepers import nobody_knows
from services.collector.kept import KeptReports
from services.collector.kube_api import api_from_environment
from services.collector.kube_pods import KubernetesPods
from services.collector.listener import OPTIONS as LISTENING
from services.collector.listener import Guard
from services.collector.logroom import LOOK_SECONDS, make_room
from services.collector.manifests import Manifests
from services.collector.node_loads import COUNT_SECONDS, NodeLoads
from services.collector.notices import Notifier
from services.collector.pods import JobOf, LocalPods, Pods
from services.collector.recovery import RECORD_SECONDS, Recorder
from services.collector.retention import LOOK_SECONDS as RETENTION_SECONDS
from services.collector.retention import tidy_store
from services.collector.skip import THREADS, WAITING_AT_MOST, Skipper
from services.collector.store import Store
from services.process import begin, connect, end_in_time, refuse, repeat, run_loops

if TYPE_CHECKING:
    from services.collector.traces import Tracer

log = structlog.get_logger()

TRACES_AT_A_TIME = 8
NOTICES_AT_A_TIME = 64
SWEEP_SECONDS = 30
ENDPOINT_THREADS = 8
DRAIN_SECONDS_AT_LEAST, DRAIN_SECONDS_AT_MOST, DRAIN_LOOK_SECONDS = 0.2, 5.0, 0.02
"""For the requests of those who have just connected; for all; and how often it is looked whether they are answered."""
ALIVE_SECONDS = 1
"""How often it is seen to that the endpoint's thread still runs; it may outlive the loops, so it is none of them."""


def run(
    settings: Settings,
    pods: Pods,
    client: redis.Redis,
    stop: Stop,
    *others: Callable[[], None],
    kept: KeptReports | None = None,
    manifest: Manifest = no_manifest,
    store: Store | None = None,
    heartbeat: Heartbeat | None = None,
) -> None:
    """Serve launched Jobs, settled runs and what may be skipped until stopped, with `others` beside."""
    partitions = all_partitions(settings.partitions)

    def inbox_of(streams: list[str], batch_entries: int, **options: int) -> Inbox:
        return Inbox(
            client,
            group=COLLECTOR_GROUP,
            consumer=settings.replica,
            streams=streams,
            batch_entries=batch_entries,
            lease_seconds=settings.lease_seconds,
            **options,
        )

    inbox = inbox_of(
        [stream for keys in partitions for stream in (keys.launched, keys.settled)], settings.batch_entries
    )
    collector = Collector(client, inbox, pods, settings, kept, manifest)
    checks = inbox_of([keys.checks for keys in partitions], THREADS, put_off_at_most=WAITING_AT_MOST)
    skipper = Skipper(client, store or Store(settings), settings)
    heartbeat = heartbeat or Heartbeat(client, "collector", settings.replica)
    heartbeat.troubles += [inbox.trouble, checks.trouble]
    beside = list(others)
    if settings.metrics_bind:
        # Only then, because it takes 50 ms to import.
        from services.collector.shared_figures import READ_SECONDS, SharedFigures
        from services.scrape import RENDERED

        figures = SharedFigures(client, settings)
        RENDERED.append(figures.rendered)
        beside.append(lambda: repeat(stop, READ_SECONDS, figures.look_if_asked))
    inboxes = [inbox, checks]
    tracer: Tracer | None = None
    if settings.otlp_endpoint:
        traced = inbox_of([keys.traced for keys in partitions], TRACES_AT_A_TIME)
        tracer = tracer_of(client, traced, settings)
        inboxes.append(traced)
        beside.append(partial(work, traced, tracer.handle, settings=settings, stop=stop))
    notifier: Notifier | None = None
    if settings.notify_hosts:
        notices = inbox_of([keys.notices for keys in partitions], NOTICES_AT_A_TIME)
        notifier = Notifier(client, notices, settings)
        inboxes.append(notices)
        beside.append(partial(work, notices, notifier.handle, settings=settings, stop=stop, on_turn=notifier.turn))
    end_in_time(stop, settings, inboxes)
    run_loops(
        stop,
        lambda: work(
            inbox, collector.handle, settings=settings, stop=stop, heartbeat=heartbeat, on_turn=collector.turn
        ),
        lambda: work(checks, skipper.handle, settings=settings, stop=stop),
        *beside,
    )
    skipper.close()
    if tracer is not None:
        tracer.close()
    if notifier is not None:
        notifier.close()
    heartbeat.end()


def tracer_of(client: redis.Redis, inbox: Inbox, settings: Settings) -> "Tracer":
    """Ends the process where what traces need is not installed."""
    try:
        # Only where it is wanted: it takes 0.3 s and 20 MB, and comes with the extra `otel` alone.
        from services.collector.traces import Tracer
    except ImportError:
        refuse(SettingInvalid("HELIOS_OTLP_ENDPOINT is set, but the extra `otel` is not installed"))
    return Tracer(client, inbox, settings)


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
            **LISTENING,
        )
        Guard(self.server)
        self.thread = threading.Thread(target=self._serve, name="endpoint", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def supervise(self, stop: Stop) -> None:
        """Until stopped and empty; an endpoint that ends before ends the process, because no restart would come
        otherwise.
        """
        while not stop.wait(ALIVE_SECONDS):
            if not self.thread.is_alive():
                raise RuntimeError("the pod endpoint has ended")
        self.drain()

    def drain(self) -> None:
        """Take no more connections, and answer what is asked already."""
        # In the thread of its loop, whose table of sockets this changes.
        self.server.trigger.pull_trigger(self._stop_accepting)
        began = time.monotonic()
        while self.thread.is_alive() and (waited := time.monotonic() - began) < DRAIN_SECONDS_AT_MOST:
            if waited > DRAIN_SECONDS_AT_LEAST and not any(map(_is_busy, list(self.server.active_channels.values()))):
                break
            time.sleep(DRAIN_LOOK_SECONDS)

    def _stop_accepting(self) -> None:
        open_before = -1
        while len(self.server.active_channels) != open_before:  # who has connected already is served
            open_before = len(self.server.active_channels)
            self.server.handle_accept()
        dispatcher.close(self.server)

    def _serve(self) -> None:
        try:
            self.server.run()
        except Exception:
            log.exception("the pod endpoint failed")

    def close(self) -> None:
        """Of what is left open nobody has asked anything."""
        self.server.trigger.close()


def _is_busy(channel: Any) -> bool:
    """Whether a request is on its way in, at work, or on its way out."""
    return bool(channel.requests or channel.request is not None or channel.total_outbufs_len)


def sweep(pods: Pods, client: redis.Redis, settings: Settings, patience: Patience | None = None) -> None:
    """Release Jobs that were wrapped up but whose release was lost, as when a collector died just then.

    `patience` with those of runs that Redis has lost; without, they go like the others.
    """
    over = pods.unreleased()
    if not over:
        return  # and what was waited for is gone
    ended: list[str] = []
    lost: set[str] = set()
    for name in over:
        try:
            job = pods.attempt_of(name)
            state = _state_of(job, client, settings)
            if job is not None and state == [None, None]:
                lost.add(name)
            if job is None or state != ["QUEUED", str(job.attempt)]:  # else its launch is about to be recorded
                ended.append(name)
        except (OSError, ValueError, redis.ResponseError) as error:
            log.error("a pod cannot be looked at", job=name, error=str(error))
    # Read last, so that an attempt found launched above is in here unless it has been wrapped up since.
    launched: set[str] = set()
    for keys in all_partitions(settings.partitions):
        entries: Any = client.xrange(keys.launched)
        launched |= {fields.get("job", "") for _, fields in entries}
    waits = patience.look(lost) if patience is not None else ()
    for name in ended:
        if name not in launched and name not in waits:
            pods.release(name)


def _state_of(job: JobOf | None, client: redis.Redis, settings: Settings) -> Any:
    """Status and current attempt of the Job's task, as its record has them."""
    if job is None:
        return None
    return client.hmget(keys_of_run(job.run, settings.partitions).task(job.run, job.task), "status", "attempt")


def pods_from(settings: Settings) -> LocalPods | KubernetesPods:
    """Where this process sees pods. Raises SettingInvalid."""
    if settings.launcher == "kubernetes":
        return KubernetesPods(api_from_environment(), settings)
    if not settings.local_dir:
        raise SettingInvalid("HELIOS_LOCAL_DIR must be set; `helios up` sets it")
    return LocalPods(Path(settings.local_dir))


def main() -> None:
    stop = Stop()
    settings = begin("collector", stop)
    try:
        if not settings.token_key:
            raise SettingInvalid("HELIOS_TOKEN_KEY must be set; `helios up` and k8s/ set it")
        pods = pods_from(settings)
    except SettingInvalid as error:
        refuse(error)
    client = connect(settings)
    kept = KeptReports()
    store = Store(settings)
    manifests = Manifests(store.read)
    over = pods.over if isinstance(pods, KubernetesPods) else nobody_knows
    heartbeat = Heartbeat(client, "collector", settings.replica)
    application = PodEndpoint(client, store, settings, kept, over, heartbeat.waits_for)
    endpoint = Endpoint(application, settings.pod_endpoint_bind)
    endpoint.start()
    log.info("serving pods", bind=settings.pod_endpoint_bind)
    patience = Patience(settings.unknown_job_seconds)
    others: list[Callable[[], None]] = [
        lambda: repeat(stop, SWEEP_SECONDS, partial(sweep, pods, client, settings, patience)),
        lambda: repeat(stop, LOOK_SECONDS, partial(make_room, client, settings)),
        lambda: repeat(stop, RETENTION_SECONDS, partial(tidy_store, client, settings, stop)),
        lambda: repeat(stop, RECORD_SECONDS, Recorder(client, store, settings).look),
        lambda: endpoint.supervise(stop),
    ]
    if isinstance(pods, KubernetesPods):
        pods.start()
        heartbeat.troubles.append(pods.trouble)
        loads = NodeLoads(client, pods.at_work)
        others += [
            lambda: pods.supervise(stop),
            lambda: repeat(stop, COUNT_SECONDS, loads.note),
        ]
    run(settings, pods, client, stop, *others, kept=kept, manifest=manifests.get, store=store, heartbeat=heartbeat)
    manifests.close()
    endpoint.close()


if __name__ == "__main__":
    main()
