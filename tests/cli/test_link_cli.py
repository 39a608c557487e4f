"""Commands whose way to Redis breaks: each goes on, or ends in time and in words, and nothing is submitted twice."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from helios.keys import Keys
from helios.streams import CLIENT_OPTIONS
from tests.cli.command import Helios
from tests.faulty_link import Fault, FaultyLink, long
from tests.redis_servers import Valkey
from tests.services.link_services import SECRET, LinkedServices
from tests.waiting import wait_until

SERVICES = {
    "submitter": ("-m", "services.submitter"),
    "jobrunner": ("-m", "bench.instant", "jobrunner"),
    "collector": ("-m", "bench.instant", "collector"),
}
DAG = "dagName: d\ntasks: [{name: a, image: i, command: [x]}]\n"
LOSSES = (Fault.RESET_REQUEST, Fault.RESET_SENT, Fault.RESET_REPLY, Fault.CUT_REPLY)
NOTICED_SECONDS = 10


class Town:
    """Services with a way of their own to Redis, and commands whose way may break."""

    def __init__(self, server: Valkey, folder: Path, link: FaultyLink) -> None:
        self.link = link
        self.client: redis.Redis = server.client()
        self.client.execute_command("ACL", "SETUSER", "linked", "on", f">{SECRET}", "~*", "&*", "+@all")
        self.services = LinkedServices(folder, SERVICES, {"HELIOS_REDIS_URL": server.url})
        self.helios = Helios(folder, {"HELIOS_REDIS_URL": f"redis://linked:{SECRET}@127.0.0.1:{link.port}/0"})
        self.helios.dag("d", DAG)

    def status(self, run: str) -> str | None:
        return self.client.hget(Keys(0).task(run, "a"), "status")

    def runs(self) -> list[str]:
        """The ids of all submissions that were taken up, aliases included."""
        return [name for name in (key.rpartition(":")[2] for key in self.client.keys(Keys(0).run("*"))) if "-" in name]


@pytest.fixture
def town(own_valkey: Valkey, tmp_path: Path) -> Iterator[Town]:
    with FaultyLink(("127.0.0.1", own_valkey.port), seed=8) as link:
        found = Town(own_valkey, tmp_path, link)
        yield found
        found.helios.end_started()
        found.services.kill()


def test_whoever_submits_over_a_bad_connection_gets_one_run(town: Town) -> None:
    """Every try ends in success, or in words that say what to do; tried often enough, there is one run."""
    for fault in LOSSES:
        town.link.on(fault, share=0.05)
    succeeded = 0
    for _ in range(8):
        done = town.helios("submit", "d.yaml", "--request-id", "mine")
        assert done.code in (0, 3), done.err
        assert SECRET not in done.err
        assert done.code == 0 or "next:" in done.err
        succeeded += done.code == 0
        if succeeded >= 2 and town.link.counts.total() >= 3:
            break
    assert succeeded >= 1
    assert town.link.counts.total() >= 1
    runs = wait_until("all are taken up", lambda: len(town.runs()) >= succeeded and town.runs())
    assert len([run for run in runs if town.client.hget(Keys(0).run(run), "aliasOf") is None]) == 1


def test_a_run_whose_submission_gets_no_reply_is_sent_again_and_is_one_run(town: Town) -> None:
    """`helios run` asks nobody for a request id: it has one of its own."""
    town.link.once(Fault.RESET_REPLY, 2)
    done = town.helios("run", "d.yaml", "-o", "json")
    assert done.code == 0, done.err
    assert town.link.counts == {Fault.RESET_REPLY: 2}
    assert done.json()["status"] == "SUCCEEDED"
    assert len([run for run in town.runs() if town.client.hget(Keys(0).run(run), "aliasOf") is None]) == 1


@pytest.mark.alone
@pytest.mark.parametrize("fault", [Fault.REFUSE, pytest.param(Fault.HALF_OPEN, marks=long)])
def test_who_follows_a_run_or_a_log_finds_the_way_again(town: Town, fault: Fault) -> None:
    """A connection that ends is missed at once, one that falls silent in time; neither command loses a line."""
    collector = town.services.processes["collector"]
    collector.kill()
    collector.wait()
    following = town.helios.start("run", "d.yaml", "-o", "json")
    (run,) = wait_until("the run is there", town.runs, 30)
    wait_until("its task runs", lambda: town.status(run) == "RUNNING", 30)
    reader = town.helios.start("logs", run, "a", "--follow")
    wait_until("the log is followed", lambda: town.client.exists(Keys(0).watched(run)), 30)
    log = Keys(0).log(run, "a", 1, "task")
    town.client.xadd(log, {"line": "before"})
    town.link.on(fault)
    began = time.monotonic()
    town.client.xadd(log, {"line": "meanwhile"})
    for command in (following, reader):
        hear(command, "the connection to Redis is lost")
    noticed = time.monotonic() - began
    town.link.heal()
    town.services.start()
    for command in (following, reader):
        out, err = command.communicate(timeout=60)
        assert command.returncode == 0, err
        assert SECRET not in err
        assert "Traceback" not in err
        if command is reader:
            assert out.splitlines() == ["before", "meanwhile"]
    assert noticed < (NOTICED_SECONDS if fault is Fault.HALF_OPEN else 1) + 4


def hear(process: "subprocess.Popen[str]", words: str) -> None:
    """Read the narration up to the words."""
    assert process.stderr is not None
    stderr = process.stderr
    wait_until(f"it says {words!r}", lambda: words in stderr.readline(), 60)


@long
def test_a_redis_that_says_nothing_ends_a_command_in_time_and_in_words(town: Town) -> None:
    """A connection is waited for during five seconds; what can be sent again is tried three times."""
    town.link.on(Fault.SILENT)
    began = time.monotonic()
    commands = [town.helios.start("runs"), town.helios.start("submit", "d.yaml")]
    for command in commands:
        _, err = command.communicate(timeout=60)
        assert command.returncode == 3, err
        assert "next:" in err
        assert SECRET not in err
    assert time.monotonic() - began < 3 * CLIENT_OPTIONS["socket_connect_timeout"] + 40
