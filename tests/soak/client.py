"""`python -m tests.soak.client CONFIG NUMBER OF`: sends its share of a soak's submissions and cancels, by the clock.

It writes down each submission before it sends it, and what Redis answered after. Killed and started again, it goes on
where its ledger ends. What a submitter can do against the loss of Redis's last second, it does: a submission with a
request id is sent again until its run is there some seconds after it was acknowledged; some others ask WAITAOF.
"""

import fcntl
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import redis

from helios.keys import CONTROLS, SUBMISSIONS, all_partitions, keys_of_run
from helios.records import ENDED
from helios.streams import CLIENT_OPTIONS
from tests.soak.ledger import Acknowledged, CancelWanted, Durable, Ledger, Seen, Wanted, now_us, read
from tests.soak.workload import Planned, plan

SURE_AFTER_SECONDS = 3.0
"""everysec puts off an fsync by two seconds at most: what is there so long after its acknowledgement stays."""
CANCEL_AGAIN_SECONDS = 2.0
LOOK_SECONDS = 0.25
BACKLOG_ENTRIES = 600


class Config(msgspec.Struct, frozen=True):
    """What all processes of a soak are told."""

    redis_url: str
    link_url: str
    seed: int
    tasks: int
    seconds: float
    partitions: int
    began_at: float
    """Epoch seconds; submissions are spread over `seconds` from then on."""
    redis_folder: str
    ledgers: str
    durable_lock: str
    enough: str
    """A file; once it exists nothing more is sent, and what was sent is followed to its end."""


class Followed(msgspec.Struct):
    """A submission whose run is looked for."""

    planned: Planned
    run: str
    acknowledged_at: float
    cancel_at: float | None = None
    is_seen: bool = False


class Client:
    """One of several clients; `share` says which submissions are its own."""

    def __init__(self, config: Config, number: int, of: int) -> None:
        self.config = config
        file = Path(config.ledgers) / f"client-{number}"
        self.mine = [each for each in plan(config.seed, config.tasks) if each.number % of == number]
        self.all = sum(1 for _ in self.mine) * of
        before = read(file)
        self.ledger = Ledger(file)
        self.redis: redis.Redis = redis.Redis.from_url(config.link_url, **{**CLIENT_OPTIONS, "socket_timeout": 5})
        self.sends = {line.send for line in before if isinstance(line, Wanted)}
        self.followed: dict[int, Followed] = {}
        self._remember(before)
        self.next_look = 0.0
        self.has_room = True

    def _remember(self, before: list[Any]) -> None:
        plans = {each.number: each for each in self.mine}
        numbers = {line.send: line.number for line in before if isinstance(line, Wanted)}
        seen = {line.number for line in before if isinstance(line, Seen)}
        for number in {line.number for line in before if isinstance(line, Wanted)}:
            planned = plans[number]
            answers = [line for line in before if isinstance(line, Acknowledged) and numbers[line.send] == number]
            if self._is_followed(planned) and number not in seen:
                last = answers[-1] if answers else None
                self._follow(planned, last.run if last else "", last.at / 1e6 if last else 0.0)

    @staticmethod
    def _is_followed(planned: Planned) -> bool:
        return planned.request is not None

    def run(self) -> None:
        queue = [each for each in self.mine if f"{each.number}.{len(each.sends) - 1}" not in self.sends]
        while queue or self.followed:
            if queue and self.has_room and time.time() >= self._due(queue[0]):
                self._submit(queue.pop(0))
            else:
                time.sleep(0.01)
            if time.time() >= self.next_look:
                self.next_look = time.time() + LOOK_SECONDS
                if Path(self.config.enough).exists():
                    queue.clear()
                try:
                    self._look()
                except redis.RedisError:
                    continue

    def _due(self, planned: Planned) -> float:
        return self.config.began_at + self.config.seconds * planned.number / self.all

    def _submit(self, planned: Planned) -> None:
        for place, text in enumerate(planned.sends):
            send = f"{planned.number}.{place}"
            if send in self.sends:
                continue
            run = self._send(planned, send, text)
            while run is None and planned.request is not None:
                time.sleep(0.2)
                run = self._send(planned, f"{planned.number}.{place}r{now_us()}", text)
            if place == 0 and run is not None and self._is_followed(planned):
                self._follow(planned, run, time.time())

    def _follow(self, planned: Planned, run: str, acknowledged_at: float) -> None:
        after = planned.cancel_after_ms
        cancel_at = None if after is None else time.time() + after / 1000
        self.followed[planned.number] = Followed(planned, run, acknowledged_at, cancel_at)

    def _send(self, planned: Planned, send: str, text: str) -> str | None:
        """The id that Redis answered with; None if it is not known whether the submission arrived."""
        fields = {"dag": text, "useCache": "true" if planned.use_cache else "false"}
        if planned.request is not None:
            fields["requestId"] = planned.request
        self.ledger.write([Wanted(send, planned.number, planned.request, now_us())])
        self.sends.add(send)
        try:
            return self._add_durably(send, fields) if planned.durable else self._add(send, fields)
        except redis.RedisError:
            return None

    def _add(self, send: str, fields: dict[str, str]) -> str:
        run: Any = self.redis.xadd(SUBMISSIONS, dict(fields.items()))
        self.ledger.write([Acknowledged(send, run, now_us())])
        return run

    def _add_durably(self, send: str, fields: dict[str, str]) -> str:
        """Redis is not cut off meanwhile: what it said is on the disk must be known to whoever plays the power cut."""
        with open(self.config.durable_lock, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            client: redis.Redis = redis.Redis.from_url(self.config.redis_url, **CLIENT_OPTIONS)
            try:
                run: Any = client.xadd(SUBMISSIONS, dict(fields.items()))
                file, offset = file_bytes(Path(self.config.redis_folder))
                self.ledger.write([Acknowledged(send, run, now_us())])
                local, _ = client.execute_command("WAITAOF", 1, 0, 4000)
                if local == 1:
                    self.ledger.write([Durable(send, run, file, offset, now_us())])
                return run
            finally:
                client.close()

    def _look(self) -> None:
        partitions = all_partitions(self.config.partitions)
        lengths = [self.redis.xlen(SUBMISSIONS)]
        for keys in partitions:
            lengths += [self.redis.xlen(keys.ready), self.redis.xlen(keys.launched)]
        self.has_room = sum(lengths) < BACKLOG_ENTRIES  # pyright: ignore
        now = time.time()
        for number, each in list(self.followed.items()):
            if self._follow_up(each, now):
                del self.followed[number]

    def _follow_up(self, each: Followed, now: float) -> bool:
        """Whether nothing is left to do for the submission."""
        planned = each.planned
        found = self._state(each.run) if each.run else None
        if found is None:
            each.is_seen = False
            if now - each.acknowledged_at < SURE_AFTER_SECONDS:
                return False
            if each.run and self.redis.xrange(SUBMISSIONS, each.run, each.run):
                return False
            # Either it never arrived or Redis lost it.
            run = self._send(planned, f"{planned.number}.0r{now_us()}", planned.sends[0])
            if run is not None:
                each.run, each.acknowledged_at = run, now
            return False
        run, status = found
        if not each.is_seen and now - each.acknowledged_at >= SURE_AFTER_SECONDS:
            each.is_seen = True
            self.ledger.write([Seen(planned.number, run, now_us())])
        if each.cancel_at is None or status in ENDED:
            return each.is_seen
        if now >= each.cancel_at:
            each.cancel_at = now + CANCEL_AGAIN_SECONDS
            self.ledger.write([CancelWanted(planned.number, run, now_us())])
            self.redis.xadd(CONTROLS, {"run": each.run, "action": "cancel"})
        return False

    def _state(self, run: str) -> tuple[str, str | None] | None:
        """The run that an id stands for, and its status; None if there is no such run."""
        found: Any = self.redis.hmget(keys_of_run(run, self.config.partitions).run(run), "status", "aliasOf")
        status, alias = found
        if alias:
            first = self._state(alias)
            return first or None
        return None if status is None else (run, status)


def file_bytes(folder: Path) -> tuple[str, int]:
    """Name and length of the append-only file that Redis writes to now."""
    files = sorted((folder / "appendonlydir").glob("*.incr.aof"), key=lambda file: int(file.name.split(".")[-3]))
    return (files[-1].name, files[-1].stat().st_size) if files else ("", 0)


def main() -> None:
    config = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Config)
    os.umask(0o077)
    Client(config, int(sys.argv[2]), int(sys.argv[3])).run()


if __name__ == "__main__":
    main()
