"""`python -m services.submitter`: a thread each for what users send, what finished, schedules and triggers."""

from helios.heartbeat import Heartbeat
from helios.keys import SUBMITTER_GROUP, all_partitions
from helios.streams import Inbox
from helios.worker import Stop, work
from services.process import begin, connect, end_in_time, repeat, run_loops
from services.submitter.admission import Admission
from services.submitter.damage import IngressWatch
from services.submitter.ingress import STREAMS, Ingress
from services.submitter.reconcile import EVERY_SECONDS, Reconciler
from services.submitter.schedule import EVERY_SECONDS as SCHEDULES_EVERY_SECONDS
from services.submitter.schedule import Scheduler
from services.submitter.settle import Settler
from services.submitter.trigger import EVERY_SECONDS as TRIGGERS_EVERY_SECONDS
from services.submitter.trigger import TriggerReader

INGRESS_ENTRIES = 4
"""Submissions can be megabytes each, so few are taken in hand at a time."""


def main() -> None:
    stop = Stop()
    settings = begin("submitter", stop)
    client = connect(settings)
    heartbeat = Heartbeat(client, "submitter", settings.replica)

    def inbox(streams: tuple[str, ...], batch_entries: int) -> Inbox:
        return Inbox(
            client,
            group=SUBMITTER_GROUP,
            consumer=settings.replica,
            streams=streams,
            batch_entries=batch_entries,
            lease_seconds=settings.lease_seconds,
        )

    outside = inbox(STREAMS, INGRESS_ENTRIES)
    admission = Admission(client, outside, settings, heartbeat)
    ingress = Ingress(
        *(client, outside, settings.partitions, settings.ready_per_run, admission),
        notify_hosts=settings.notify_hosts,
        trigger_streams=settings.trigger_streams,
    )
    watch = IngressWatch(client, STREAMS)

    def before_reading() -> int | None:
        watch.look()
        return admission.turn()

    finished = inbox(tuple(keys.finished for keys in all_partitions(settings.partitions)), settings.batch_entries)
    settler = Settler(client, settings.partitions)
    reconciler = Reconciler(client, settings.partitions)
    scheduler = Scheduler(client, settings.partitions, settings.lease_seconds)
    triggers = TriggerReader(
        client,
        settings.partitions,
        streams=settings.trigger_streams,
        lease_seconds=settings.lease_seconds,
        deliveries_at_most=settings.deliveries_before_dead_letter,
    )
    heartbeat.troubles += [finished.trouble, outside.trouble]
    end_in_time(stop, settings, (outside, finished))
    run_loops(
        stop,
        lambda: work(finished, settler.handle, settings=settings, stop=stop, heartbeat=heartbeat),
        lambda: work(
            outside, ingress.handle, settings=settings, stop=stop, on_turn=before_reading, on_bury=ingress.bury
        ),
        lambda: repeat(stop, EVERY_SECONDS, reconciler.look),
        lambda: repeat(stop, SCHEDULES_EVERY_SECONDS, scheduler.look),
        lambda: repeat(stop, TRIGGERS_EVERY_SECONDS, triggers.look),
    )
    heartbeat.end()


if __name__ == "__main__":
    main()
