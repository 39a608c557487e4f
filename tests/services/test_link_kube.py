"""The three services and their way to the API server: whatever the connection does, each attempt gets one Job, its end
is committed once, and nothing waits longer than stated.
"""

import time
from collections.abc import Iterator

import pytest

from helios.keys import SUBMISSIONS, Keys
from tests.faulty_link import Fault, FaultyLink, Plan, long
from tests.redis_servers import Valkey, free_port
from tests.services.job_server import kubeconfig
from tests.services.kube_server import KubeServer
from tests.services.link_services import SECRET, LinkedServices
from tests.stage import counters, dag_text
from tests.waiting import wait_until

COMMANDS = {service: ("-m", f"services.{service}") for service in ("submitter", "jobrunner", "collector")}
LOSSES = (Fault.RESET_REQUEST, Fault.RESET_SENT, Fault.RESET_REPLY, Fault.CUT_REPLY)
NOTICED_SECONDS = 12
"""A watch that neither says anything nor ends is given up after this; any other request sooner (docs/design.md)."""
BACK_SECONDS = 5
"""So long after the connection is well, or its silence is noticed, everything goes on."""
TASKS = {"a": [], **{f"b{number}": ["a"] for number in range(20)}, "c": [f"b{number}" for number in range(20)]}


class Trial:
    def __init__(self, server: Valkey, kube: KubeServer, link: FaultyLink, services: LinkedServices) -> None:
        self.client = server.client()
        self.kube = kube
        self.link = link
        self.services = services

    def submit(self) -> str:
        return str(self.client.xadd(SUBMISSIONS, {"dag": dag_text(TASKS)}))

    def field(self, run: str, name: str) -> str | None:
        return self.client.hget(Keys(0).run(run), name)

    def wait_for_the_end(self, run: str, seconds: float) -> None:
        wait_until("the run has ended", lambda: self.field(run, "status") == "SUCCEEDED", seconds)

    def check(self, run: str) -> None:
        keys = Keys(0)
        fields = self.client.hgetall(keys.run(run))
        assert fields["taskSucceeded"] == str(len(TASKS))
        assert counters(fields)["taskFailed"] == "0"
        assert {self.client.hget(keys.task(run, name), "attempt") for name in TASKS} == {"1"}
        assert len(self.kube.created) == len(set(self.kube.created))
        for stream in (keys.ready, keys.launched, keys.finished, keys.settled, keys.cancelled):
            wait_until(f"{stream} is empty", lambda stream=stream: self.client.xlen(stream) == 0, 30)
            assert all(group["pending"] == 0 for group in self.client.xinfo_groups(stream))
        assert self.client.xlen(keys.dead) == 0
        wait_until(
            "no Job and no pod is left", lambda: not self.kube.objects["jobs"] and not self.kube.objects["pods"], 40
        )


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    kube = KubeServer()
    kube.runs_jobs = True
    kube.put("nodes", "node1", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    with FaultyLink(("127.0.0.1", kube.http.server_port), seed=5) as link:
        folder = tmp_path_factory.mktemp("services")
        config = kubeconfig(folder, f"http://127.0.0.1:{link.port}")
        config.write_text(config.read_text().replace("opaque", SECRET))
        environ = {
            "HELIOS_REDIS_URL": server.url,
            "KUBECONFIG": str(config),
            "HELIOS_LAUNCHER": "kubernetes",
            "HELIOS_AGENT_IMAGE": "helios:1",
            "HELIOS_JOB_FORM": "init",
            "HELIOS_POD_ENDPOINT_BIND": f"127.0.0.1:{free_port()}",
            "HELIOS_LEASE_SECONDS": "15",
        }
        services = LinkedServices(folder, COMMANDS, environ)
        try:
            yield Trial(server, kube, link, services)
        finally:
            services.kill()
            server.kill()
            kube.close()


@pytest.fixture(autouse=True)
def healed(trial: Trial) -> Iterator[None]:
    yield
    trial.link.heal()


def test_messages_that_are_lost_on_the_way_to_the_api_server_cost_nothing(trial: Trial) -> None:
    """Whether a Job was created, a pod let go or a watch opened is not known, and each is asked for again."""
    for fault in LOSSES:
        trial.link.on(fault, share=0.1)
    run = trial.submit()
    wait_until("every fault has hit", lambda: all(trial.link.counts[fault] >= 3 for fault in LOSSES), 60)
    trial.link.heal()
    trial.wait_for_the_end(run, BACK_SECONDS + 10)
    trial.check(run)


@pytest.mark.alone
def test_an_api_server_that_falls_silent_is_noticed_in_time(trial: Trial) -> None:
    """Its watches and the connections that were kept: none ends, and none says a word."""
    known = len(trial.kube.created)
    run = trial.submit()
    wait_until("some Jobs are created", lambda: len(trial.kube.created) > known + 3, 60)
    trial.link.on(Fault.HALF_OPEN)
    began = time.monotonic()
    trial.link.heal()
    trial.wait_for_the_end(run, NOTICED_SECONDS + BACK_SECONDS + 10)
    took = time.monotonic() - began
    trial.check(run)
    assert took <= NOTICED_SECONDS + BACK_SECONDS


@pytest.mark.alone
def test_an_api_server_that_refuses_costs_no_processor_and_is_said_without_secrets(trial: Trial) -> None:
    known = {service: len(trial.services.log(service)) for service in COMMANDS}
    trial.link.on(Fault.REFUSE)
    before, began = trial.services.cpu_seconds(), time.monotonic()
    run = trial.submit()  # only now: the jobrunner would have nothing to say, had its one Job been created before
    wait_until(
        "the collector asks less and less often",
        lambda: '"retry_in_seconds": 2' in trial.services.log("collector")[known["collector"] :],
    )
    wait_until("the jobrunner says it", lambda: "put off" in trial.services.log("jobrunner")[known["jobrunner"] :])
    away = time.monotonic() - began
    used = {service: seconds - before[service] for service, seconds in trial.services.cpu_seconds().items()}
    trial.link.heal()
    trial.wait_for_the_end(run, BACK_SECONDS + 10)
    trial.check(run)
    # What the run's start still costs is in it, too; a tight loop takes a whole processor for all of that time.
    assert max(used.values()) < 1.0 + 0.25 * away
    assert SECRET not in trial.services.logs()
    assert "Traceback" not in trial.services.logs()


@long
def test_a_random_course_of_faults_ends_well(trial: Trial) -> None:
    """Every kind of fault, one after the other, while runs come in."""
    runs: list[str] = []
    with trial.link.wander(Plan(quiet_seconds=(0.5, 2), fault_seconds=(0.1, 0.6), share=0.2)):
        for _ in range(4):
            runs.append(trial.submit())
            trial.wait_for_the_end(runs[-1], 110)
    for run in runs:
        trial.check(run)
