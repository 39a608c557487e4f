"""What a DAG may say under `notify`, and what the operator may list."""

import msgspec
import pytest

from helios.dag import Dag, DagInvalid, Notify, parse_dag
from helios.dag_written import written
from helios.notify import Unusable, destination, is_allowed, read_hosts, read_secrets, url_fault
from helios.settings import SettingInvalid, settings_from

TASKS = [{"name": "t", "image": "i", "command": ["x"]}]


def parsed(*notify: object) -> Dag:
    return parse_dag(msgspec.json.encode({"dagName": "d", "notify": notify, "tasks": TASKS})).dag


def test_what_is_written_is_kept_and_written_again() -> None:
    dag = parsed(
        {"url": "https://a.example/x?y=%20", "on": ["failed", "cancelled"], "secret": "ci"}, {"url": "http://b"}
    )
    assert dag.notify == (
        Notify(url="https://a.example/x?y=%20", on=("failed", "cancelled"), secret="ci"),
        Notify(url="http://b", on=("ended",)),
    )
    assert parse_dag(written(msgspec.json.encode(dag)), recorded=True).dag == dag


def test_the_record_of_a_version_without_notices_is_read() -> None:
    """And a version that knows none reads ours: what it does not know it passes over."""
    ours = msgspec.json.decode(msgspec.json.encode(parsed()))
    del ours["notify"]
    stored = msgspec.json.encode(ours)
    assert msgspec.json.decode(stored, type=Dag) == parsed()
    assert parse_dag(written(stored), recorded=True).dag.notify == ()


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"url": "ftp://a"}, "notify[0].url: is not a URL that begins with https:// or http://"),
        ({"url": "https://u:p4ssw0rd@a/"}, "has a user or password in it"),
        ({"url": "https://a/#x"}, "has a part after #"),
        ({"url": "https://a:65536/"}, "has the port 65536"),
        ({"url": "https://a/" + "x" * 2048}, "has 2,058 characters; the limit is 2,048"),
        ({"url": "https://a", "on": []}, "notify[0].on: is empty"),
        ({"url": "https://a", "on": ["never"]}, "notify[0].on[0]: expected 'cancelled'"),
        ({"url": "https://a", "secret": "a b"}, "notify[0].secret:"),
        ({}, "notify[0].url: is required"),
    ],
)
def test_every_problem_with_a_notice_is_told_and_no_url_is_shown(entry: dict[str, object], problem: str) -> None:
    with pytest.raises(DagInvalid) as raised:
        parsed(entry)
    assert problem in str(raised.value)
    assert "p4ssw0rd" not in str(raised.value)


def test_one_url_is_told_once_and_a_dag_tells_eight() -> None:
    with pytest.raises(DagInvalid, match=r"notify\[1\].url: is the URL of notify\[0\] too"):
        parsed({"url": "https://a"}, {"url": "https://a", "on": ["failed"]})
    with pytest.raises(DagInvalid, match="9 entries; the limit is 8"):
        parsed(*({"url": f"https://a/{number}"} for number in range(9)))


@pytest.mark.parametrize(
    "url",
    [
        "https://good.example\\@evil.example/",
        "https://good.example\t.evil.example/",
        "https://good.example\r\nHost: evil.example/",
        "https://good.example%2f@evil.example/",
        "https://evil.example;good.example/",
        "https://good.example:443:80/",
        "https://good.example.:443/",
        "https://[::1/",
        "https://[::1%25eth0]/",
        "https://\u24d6ood.example/",
        "https:///good.example/",
        "https://good.example:/",
        "HTTPS://good.example/",
        " https://good.example/",
        "https://good.example/\u0000",
    ],
)
def test_a_url_has_one_reading_or_none(url: str) -> None:
    """Whatever two readers could take for different hosts is refused."""
    assert url_fault(url) is not None
    with pytest.raises(ValueError, match=r"^(is|has) "):
        destination(url)


def test_a_host_is_listed_with_its_scheme_and_port() -> None:
    hosts = "Hooks.example.org, other.example.org:8443 http://receiver.ci.svc:8080\thttp://[::1]:80"
    for url in (
        "https://hooks.example.org/a?b",
        "https://hooks.EXAMPLE.org:443",
        "https://other.example.org:8443/",
        "http://receiver.ci.svc:8080/x",
        "http://[::1]/",
    ):
        assert is_allowed(destination(url), hosts), url
    for url in (
        "http://hooks.example.org/",
        "https://hooks.example.org:8443/",
        "https://a.hooks.example.org/",
        "https://other.example.org/",
        "https://receiver.ci.svc:8080/",
        "https://example.org/",
    ):
        assert not is_allowed(destination(url), hosts), url
        assert not is_allowed(destination(url), ""), url


@pytest.mark.parametrize("text", ["*.example.org", "https://a/path", "ftp://a", "a:99999", "u@a"])
def test_a_list_of_hosts_that_cannot_be_read_is_told(text: str) -> None:
    with pytest.raises(Unusable, match="it takes host, host:port or http://host:port"):
        read_hosts(text)
    with pytest.raises(SettingInvalid, match="HELIOS_NOTIFY_HOSTS"):
        settings_from({"HELIOS_NOTIFY_HOSTS": text})


def test_secrets_are_named_long_enough_and_shown_nowhere() -> None:
    text = "ci=correct-horse-battery=,ops=0123456789abcdef"
    assert read_secrets(text) == {"ci": "correct-horse-battery=", "ops": "0123456789abcdef"}
    settings = settings_from({"HELIOS_NOTIFY_SECRETS": text})
    assert "horse" not in repr(settings)
    for bad in ("ci=tooshortsecret", "tooshortsecret", "=tooshortsecret"):
        with pytest.raises(SettingInvalid, match="HELIOS_NOTIFY_SECRETS") as raised:
            settings_from({"HELIOS_NOTIFY_SECRETS": bad})
        assert "tooshort" not in str(raised.value)
