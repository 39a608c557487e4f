"""Which form a Job gets: by the setting and the cluster, asked over a real connection."""

import threading
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from helios.dag import Task, Toleration
from helios.settings import Settings
from services.jobrunner import forms
from services.jobrunner.forms import CSI_DRIVER, CSI_NODES, DOUBT_SECONDS, NODES, Decision, Forms, Node, decide
from services.jobrunner.jobs import JobRefused, LauncherAway
from services.jobrunner.kubernetes import Api, KubernetesLauncher
from tests.redis_servers import free_port
from tests.services.job_server import Answer, ApiServer, status
from tests.services.test_jobrunner_kubernetes import NO_RIGHTS, wanted

OURS = "cache.helios.dev"
TASK = Task(name="t", image="i", command=("true",))
TOLERANT = Task(name="t", image="i", command=("true",), tolerations=(Toleration(key="gpu", operator="Exists"),))


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def forms_of(api: Api, setting: str = "auto", clock: Clock | None = None) -> Forms:
    return Forms(lambda path: api.request("GET", path), Settings(job_form=setting), clock or Clock())


def form_of(launcher: KubernetesLauncher, server: ApiServer, attempt: int) -> str:
    """The form of the Job that an attempt gets."""
    job = wanted(attempt=attempt)
    launcher.create(job)
    (volume, *_) = server.jobs[job.name]["spec"]["template"]["spec"]["volumes"]
    form = "csi" if "csi" in volume else "init"
    assert server.jobs[job.name]["metadata"]["annotations"].get("helios.dev/form", "init") == form
    return form


def launcher_of(api: Api, setting: str) -> KubernetesLauncher:
    settings = Settings(token_key="k", agent_image="helios:1", launcher="kubernetes", job_form=setting)
    return KubernetesLauncher(api, settings, lambda: 0)


# What auto decides.


def test_a_cluster_whose_nodes_all_have_the_driver_gets_csi(server: ApiServer, api: Api) -> None:
    """On more nodes than a page has, among drivers of others."""
    server.drivers = {OURS, "ebs.csi.example"}
    for number in range(5):
        server.join(f"n{number}", "ebs.csi.example", OURS)
    assert forms_of(api).of(TASK) == "csi"
    assert server.looks == [CSI_DRIVER, *[CSI_NODES] * 3, *[NODES] * 3]


def test_without_the_driver_nothing_else_is_asked(server: ApiServer, api: Api) -> None:
    server.join("n1")
    assert forms_of(api).of(TASK) == "init"
    assert server.looks == [CSI_DRIVER]


def test_one_node_for_tasks_without_the_driver_makes_it_init(server: ApiServer, api: Api) -> None:
    """On whichever page it is: a pod that came there would wait for nobody."""
    server.drivers = {OURS}
    for number in range(5):
        server.join(f"n{number}", OURS)
    server.join("n9", "ebs.csi.example")
    found = forms_of(api)
    assert found.of(TASK) == "init"
    assert found.standing is not None
    assert "1 of 6 nodes have no driver cache.helios.dev: n9" in found.standing[0].why


@pytest.mark.parametrize(
    "lacking", [{"ready": False}, {"cordoned": True}, {"taint": "NoSchedule"}, {"taint": "NoExecute"}]
)
def test_a_node_that_takes_no_tasks_needs_no_driver(server: ApiServer, api: Api, lacking: dict[str, Any]) -> None:
    server.drivers = {OURS}
    server.join("n1", OURS)
    server.join("n2", **lacking)
    assert forms_of(api).of(TASK) == "csi"


def test_a_taint_that_only_advises_does_not_count(server: ApiServer, api: Api) -> None:
    server.drivers = {OURS}
    server.join("n1", OURS)
    server.join("n2", taint="PreferNoSchedule")
    assert forms_of(api).of(TASK) == "init"


def test_a_task_with_tolerations_may_come_to_tainted_nodes_too(server: ApiServer, api: Api) -> None:
    server.drivers = {OURS}
    server.join("n1", OURS)
    server.join("n2", taint="NoSchedule")
    found = forms_of(api)
    assert (found.of(TASK), found.of(TOLERANT)) == ("csi", "init")
    server.csi_nodes[1]["spec"]["drivers"] = [{"name": OURS}]
    found.look()
    assert (found.of(TASK), found.of(TOLERANT)) == ("csi", "csi")


def test_where_no_node_takes_tasks_it_is_init() -> None:
    assert decide([], {"n1"}).form == "init"
    assert decide([Node("n1", ready=True, schedulable=True, tainted=True)], {"n1"}).form == "init"


def test_of_many_nodes_without_the_driver_only_some_are_named() -> None:
    nodes = [Node(f"n{number}", ready=True, schedulable=True, tainted=False) for number in range(9)]
    assert decide(nodes, set()).why.endswith("9 of 9 nodes have no driver cache.helios.dev: n0, n1, n2, …")


@pytest.mark.parametrize("path", [CSI_DRIVER, CSI_NODES, NODES])
@pytest.mark.parametrize(
    "answer",
    [
        NO_RIGHTS,
        status(404, "NotFound", "the server could not find the requested resource", kind=""),
        status(503, "ServiceUnavailable"),
        status(410, "Expired", "the list is too old to go on with"),
    ],
)
def test_any_doubt_makes_it_init_until_it_is_gone(server: ApiServer, api: Api, path: str, answer: Answer) -> None:
    server.drivers = {OURS}
    server.join("n1", OURS)
    server.cluster_answers[path] = answer
    found = forms_of(api)
    assert found.of(TASK) == "init"
    server.cluster_answers.clear()
    found.look()
    assert found.of(TASK) == "csi"


@pytest.mark.parametrize("path", [CSI_DRIVER, CSI_NODES, NODES])
def test_a_doubt_that_passes_moves_no_task_to_another_form(server: ApiServer, api: Api, path: str) -> None:
    """They would run as another user, or be refused where only csi is let in."""
    server.drivers = {OURS}
    server.join("n1", OURS)
    clock = Clock()
    found = forms_of(api, clock=clock)
    assert found.of(TASK) == "csi"
    for _ in range(2):
        server.cluster_answers[path] = status(503, "ServiceUnavailable")
        for _ in range(3):
            clock.now += DOUBT_SECONDS / 4
            found.look()
            assert found.of(TASK) == "csi"
        server.cluster_answers.clear()
        found.look()
    server.cluster_answers[path] = status(503, "ServiceUnavailable")
    clock.now += DOUBT_SECONDS
    found.look()
    assert found.of(TASK) == "init", "it has lasted"


def test_an_agent_that_is_replaced_and_a_node_that_joins_are_waited_for(server: ApiServer, api: Api) -> None:
    """kubelet knows no driver while its agent is restarted."""
    server.drivers = {OURS}
    server.join("n1", OURS)
    clock = Clock()
    found = forms_of(api, clock=clock)
    assert found.of(TASK) == "csi"
    server.csi_nodes[0]["spec"]["drivers"] = []
    server.join("n2")
    clock.now += DOUBT_SECONDS - 1
    found.look()
    assert found.of(TASK) == "csi"
    clock.now += 1
    found.look()
    assert found.of(TASK) == "init"


def test_a_driver_that_was_taken_away_ends_csi_at_once(server: ApiServer, api: Api) -> None:
    server.drivers = {OURS}
    server.join("n1", OURS)
    found = forms_of(api)
    assert found.of(TASK) == "csi"
    server.drivers.clear()
    found.look()
    assert found.of(TASK) == "init"


def test_an_answer_that_is_not_understood_makes_it_init(server: ApiServer, api: Api) -> None:
    server.drivers = {OURS}
    server.join("n1", OURS)
    server.nodes[0]["status"] = 5
    found = forms_of(api)
    assert found.of(TASK) == "init"
    assert found.standing is not None
    assert "is not understood" in found.standing[0].why


def test_an_api_server_that_does_not_answer_makes_it_init(server: ApiServer, api: Api) -> None:
    server.drivers = {OURS}
    server.join("n1", OURS)
    api.host = f"http://127.0.0.1:{free_port()}"
    found = forms_of(api)
    assert found.of(TASK) == "init"
    api.host = server.url
    found.look()
    assert found.of(TASK) == "csi"


# How often it looks, and what it says.


def test_the_cluster_is_looked_at_once_however_many_jobs_ask(server: ApiServer, api: Api) -> None:
    """The first one looks; after that only the loop does, which has the time."""
    server.drivers = {OURS}
    server.join("n1", OURS)
    found = forms_of(api)
    together = threading.Barrier(8)
    told: list[str] = []

    def ask() -> None:
        together.wait(20)
        told.append(found.of(TASK))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["csi"] * 8
    assert server.looks == [CSI_DRIVER, CSI_NODES, NODES]
    found.look()
    assert server.looks == [CSI_DRIVER, CSI_NODES, NODES] * 2


def test_no_job_waits_for_a_look_that_is_under_way() -> None:
    answer = threading.Event()
    asked = threading.Event()

    def get(path: str) -> tuple[int, bytes]:
        asked.set()
        assert answer.wait(20)
        raise LauncherAway("no answer")

    found = Forms(get, Settings(job_form="auto"), Clock())
    found.standing = Decision("csi", "as before"), 0.0
    found.sure_at = -DOUBT_SECONDS
    look = threading.Thread(target=found.look)
    look.start()
    assert asked.wait(20)
    assert found.of(TASK) == "csi"
    answer.set()
    look.join()
    assert found.of(TASK) == "init"


def test_a_setting_that_is_init_asks_nobody(server: ApiServer, api: Api) -> None:
    found = forms_of(api, "init")
    server.drivers = {OURS}
    found.look()
    assert found.of(TASK) == "init"
    assert server.looks == []


def test_a_change_is_logged_once_and_says_why(server: ApiServer, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    monkeypatch.setattr(forms, "log", structlog.get_logger())
    server.drivers = {OURS}
    server.join("n1", OURS)
    clock = Clock()
    found = forms_of(api, clock=clock)
    with capture_logs() as lines:
        for _ in range(3):
            found.look()
        server.join("n2")
        clock.now = DOUBT_SECONDS
        for _ in range(3):
            found.look()
    assert [(line["form"], line["reason"]) for line in lines] == [
        ("csi", "every node for tasks has the driver cache.helios.dev"),
        ("init", "1 of 2 nodes have no driver cache.helios.dev: n2"),
    ]


# Jobs.


def test_each_setting_gives_the_form_that_it_names(server: ApiServer, api: Api) -> None:
    server.drivers = {OURS}
    server.join("n1", OURS)
    server.join("n2")
    assert form_of(launcher_of(api, "csi"), server, 1) == "csi"
    assert form_of(launcher_of(api, "init"), server, 2) == "init"
    launcher = launcher_of(api, "auto")
    assert form_of(launcher, server, 3) == "init"
    server.csi_nodes[1]["spec"]["drivers"] = [{"name": OURS}]
    launcher.look()
    assert form_of(launcher, server, 4) == "csi"


@pytest.mark.parametrize(("first", "second"), [("init", "csi"), ("csi", "init")])
def test_a_job_that_exists_is_adopted_in_whichever_form(server: ApiServer, api: Api, first: str, second: str) -> None:
    """Another jobrunner made it, or this one before the decision changed."""
    server.drivers = {OURS}
    launcher_of(api, first).create(wanted())
    there = dict(server.jobs)
    launcher_of(api, second).create(wanted())
    assert server.jobs == there


def test_csi_without_a_driver_makes_no_pods_that_wait_for_it(server: ApiServer, api: Api) -> None:
    """At first whatever installs the driver may be under way; then the attempt fails in words, and not by a timeout."""
    launcher = launcher_of(api, "csi")
    clock = launcher.forms.clock = Clock()
    with pytest.raises(OSError, match=r"HELIOS_JOB_FORM is csi, but the cluster has no CSIDriver cache.helios.dev"):
        launcher.create(wanted())
    clock.now = 30.0
    launcher.look()
    with pytest.raises(JobRefused, match="HELIOS_JOB_FORM is csi, but the cluster has no CSIDriver"):
        launcher.create(wanted())
    assert server.jobs == {}
    server.drivers = {OURS}
    launcher.look()
    assert form_of(launcher, server, 1) == "csi"
    server.drivers.clear()
    launcher.look()
    with pytest.raises(OSError, match="no CSIDriver"):
        launcher.create(wanted(attempt=2))


def test_a_job_that_exists_is_adopted_though_its_driver_is_gone(server: ApiServer, api: Api) -> None:
    """Its pod may be running: its attempt must not fail beside it."""
    server.drivers = {OURS}
    launcher_of(api, "csi").create(wanted())
    server.drivers.clear()
    launcher = launcher_of(api, "csi")
    clock = launcher.forms.clock = Clock()
    launcher.look()
    launcher.create(wanted())
    clock.now = 30.0
    launcher.create(wanted())
    assert list(server.jobs) == [wanted().name]


@pytest.mark.parametrize("answer", [NO_RIGHTS, status(503, "ServiceUnavailable"), status(404, "NotFound", kind="")])
def test_csi_is_taken_at_its_word_where_the_driver_cannot_be_looked_at(
    server: ApiServer, api: Api, answer: Answer
) -> None:
    """A right that the jobrunner lacks is no proof that the driver is missing."""
    server.cluster_answers[CSI_DRIVER] = answer
    assert form_of(launcher_of(api, "csi"), server, 1) == "csi"
