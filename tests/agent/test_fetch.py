"""fetch brings every input, says truly what was a hit, and fails only for what the task could not do without."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import bring
from agent.logs import LoggedInput, read_fetch_log
from agent.manifest import MESSAGE_BYTES
from tests.agent.conftest import QuietHandler, both_forms, serving


def causes(manifest: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["cause"] for item in manifest["inputs"]}


@both_forms
def test_a_second_task_hits_what_a_first_one_brought(store: Any, endpoint: Any, make_node: Any) -> None:
    digest = store.put("bucket/data.csv", b"a,b\n1,2\n")
    endpoint.add_input("in/data.csv", "bucket/data.csv")
    first, second = make_node("job-1"), make_node("job-2")
    cold, warm = first.fetch(), second.fetch()
    assert cold["ok"]
    assert warm["ok"]
    assert (cold["hits"], cold["misses"], cold["missBytes"], cold["causes"]) == (0, 1, 8, {"never-here": 1})
    assert (warm["hits"], warm["misses"], warm["hitBytes"], warm["causes"]) == (1, 0, 8, {"cached": 1})
    assert [(each["source"], each["version"]) for each in cold["inputs"]] == [("store", warm["inputs"][0]["version"])]
    assert {name: value for name, value in warm["inputs"][0].items() if name not in ("ms", "savedMs", "version")} == {
        "name": "in/data.csv",
        "bytes": 8,
        "hit": True,
        "cause": "cached",
        "sha256": digest,
        "source": "cache",
    }
    assert store.count("GET", "bucket/data.csv") == 1
    for node in (first, second):
        assert node.read("in/data.csv") == b"a,b\n1,2\n"
        seen = f"{node.cache}/views/{node.job}" if node.form == "init" else "../.helios/inputs"
        assert os.readlink(node.artifacts / "in/data.csv") == f"{seen}/in/data.csv"
    assert first.blob(digest).stat().st_nlink == 3
    assert oct(first.blob(digest).stat().st_mode)[-3:] == "444"


@both_forms
def test_a_hit_copies_nothing_and_shares_the_blob_inode(store: Any, endpoint: Any, make_node: Any) -> None:
    digest = store.put("bucket/x", b"x" * 1000)
    endpoint.add_input("x", "bucket/x")
    make_node("a").fetch()
    node = make_node("b")
    node.fetch()
    assert (node.artifacts / "x").stat().st_ino == node.blob(digest).stat().st_ino


@both_forms
def test_the_log_has_the_published_lines_and_gives_back_the_classification(
    store: Any, endpoint: Any, make_node: Any
) -> None:
    store.put("bucket/data.txt", b"hello")
    endpoint.add_input("data.txt", "bucket/data.txt")
    cold, warm = make_node("a"), make_node("b")
    cold.fetch()
    warm.fetch()
    assert cold.lines == [
        "[HELIOS] Init container starting for task 't'\n",
        "[HELIOS] Plan: 1 inputs, cache on\n",
        "[HELIOS] Cache miss for 'data.txt'; downloading from MinIO...\n",
        "[HELIOS] Input 'data.txt': miss never-here, 5 bytes\n",
        "[HELIOS] Init container completed.\n",
    ]
    assert f"[HELIOS] Cache hit for 'data.txt' -> {warm.cache}/views/b/data.txt\n" in warm.lines
    logged = read_fetch_log(warm.lines)
    assert logged is not None
    assert logged.complete
    assert logged.inputs == (LoggedInput("data.txt", True, "cached", 5),)


@both_forms
def test_another_tasks_output_needs_no_head_and_hits_by_its_digest(store: Any, endpoint: Any, make_node: Any) -> None:
    digest = store.put("bucket/runs/1/out", b"payload")
    endpoint.add_input("out", "bucket/runs/1/out", sha256=digest, bytes=7, headUrl=None)
    assert causes(make_node("a").fetch()) == {"out": "never-here"}
    store.put("bucket/runs/2/out", b"payload")
    endpoint.inputs[0]["key"] = "bucket/runs/2/out"
    assert causes(make_node("b").fetch()) == {"out": "cached"}
    assert store.count("HEAD", "bucket/runs/1/out") == store.count("HEAD", "bucket/runs/2/out") == 0


@both_forms
def test_a_new_version_at_the_same_source_is_a_miss_that_changed(store: Any, endpoint: Any, make_node: Any) -> None:
    store.put("bucket/x", b"one")
    endpoint.add_input("x", "bucket/x")
    make_node("a").fetch()
    store.put("bucket/x", b"two")
    node = make_node("b")
    assert causes(node.fetch()) == {"x": "changed"}
    assert node.read("x") == b"two"
    store.put("bucket/x", b"one")
    assert causes(make_node("c").fetch()) == {"x": "cached"}


@both_forms
def test_an_evicted_blob_is_a_miss_that_says_so(store: Any, endpoint: Any, make_node: Any) -> None:
    digest = store.put("bucket/x", b"gone")
    endpoint.add_input("x", "bucket/x")
    node = make_node("a")
    node.fetch()
    node.blob(digest).unlink()
    assert causes(make_node("b").fetch()) == {"x": "evicted"}
    assert causes(make_node("c").fetch()) == {"x": "cached"}


@both_forms
def test_with_the_cache_off_everything_is_downloaded_and_nothing_is_kept(store: Any, endpoint: Any, node: Any) -> None:
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    manifest = node.fetch(cache_enabled=False)
    assert manifest["cacheEnabled"] is False
    assert causes(manifest) == {"x": "disabled"}
    assert not node.cache.exists()
    assert not (node.artifacts / "x").is_symlink()


@both_forms
def test_the_plan_can_turn_the_cache_off_too(store: Any, endpoint: Any, node: Any) -> None:
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    endpoint.cache_enabled = False
    assert causes(node.fetch()) == {"x": "disabled"}


@both_forms
def test_a_copy_is_private_and_writable(store: Any, endpoint: Any, make_node: Any) -> None:
    digest = store.put("bucket/x", b"original")
    endpoint.add_input("x", "bucket/x", mode="copy")
    for job, cause in (("a", "never-here"), ("b", "cached")):
        node = make_node(job)
        assert causes(node.fetch()) == {"x": cause}
        with (node.artifacts / "x").open("r+b") as file:
            file.write(b"MINE")
        assert node.blob(digest).read_bytes() == b"original"
        assert node.blob(digest).stat().st_nlink == 1


@both_forms
def test_an_archive_becomes_a_folder(store: Any, endpoint: Any, make_node: Any) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in (("a.txt", b"A"), ("deep/b.txt", b"B")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    digest = store.put("bucket/folder", packed.getvalue())
    size = len(packed.getvalue())
    endpoint.add_input("folder", "bucket/folder", sha256=digest, bytes=size, headUrl=None, archive=True)
    for job, enabled in (("a", True), ("b", True), ("c", False)):
        node = make_node(job)
        assert node.fetch(cache_enabled=enabled)["ok"]
        assert node.read("folder/a.txt") == b"A"
        assert node.read("folder/deep/b.txt") == b"B"


@both_forms
@pytest.mark.parametrize("bad", ["../evil", "/evil", "link"])
def test_an_archive_that_would_leave_its_folder_is_refused(store: Any, endpoint: Any, node: Any, bad: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo(bad)
        if bad == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info, io.BytesIO(b""))
    digest = store.put("bucket/f", packed.getvalue())
    endpoint.add_input("f", "bucket/f", sha256=digest, bytes=len(packed.getvalue()), headUrl=None, archive=True)
    manifest = node.fetch()
    assert not manifest["ok"]
    assert "archive is refused" in manifest["error"]
    assert not (node.root / "evil").exists()


@both_forms
@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//b", ".", "", "a\0b", "x" * 300, "\ud800"])
def test_a_name_that_leads_out_is_refused_before_anything_is_written(endpoint: Any, node: Any, name: str) -> None:
    endpoint.add_input(name, "bucket/x")
    assert not node.fetch()["ok"]
    assert list(node.artifacts.iterdir()) == []
    assert not (node.cache / "views").exists()


@both_forms
def test_a_view_name_that_leads_out_is_refused(store: Any, endpoint: Any, make_node: Any) -> None:
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    node = make_node("ok")
    node.job = "../escape"
    manifest = node.fetch()
    assert not manifest["ok"]
    assert "view name" in manifest["error"]


def test_a_link_planted_in_artifacts_is_not_followed(store: Any, endpoint: Any, node: Any, tmp_path: Path) -> None:
    store.put("bucket/x", b"x")
    outside = tmp_path / "outside"
    outside.mkdir()
    (node.artifacts / "in").symlink_to(outside)
    endpoint.add_input("in/x", "bucket/x")
    assert not node.fetch()["ok"]
    assert list(outside.iterdir()) == []


def test_a_missing_object_is_named_with_its_source(endpoint: Any, node: Any) -> None:
    endpoint.add_input("corpus.txt", "bucket/moby.txt")
    manifest = node.fetch()
    assert manifest["error"] == "input 'corpus.txt': no object at s3://bucket/moby.txt"
    assert json.loads((node.root / "fetch-message").read_bytes())["error"] == manifest["error"]


@both_forms
def test_a_name_with_a_newline_cannot_forge_a_log_line(store: Any, endpoint: Any, node: Any) -> None:
    store.put("bucket/x", b"x")
    evil = "x\n[HELIOS] Input 'y': hit cached, 1 bytes\n"
    endpoint.add_input(evil, "bucket/x")
    assert node.fetch()["ok"]
    logged = read_fetch_log("".join(node.lines).splitlines(keepends=True))
    assert logged is not None
    assert [item.cause for item in logged.inputs] == ["never-here"]


@both_forms
def test_no_line_and_no_error_shows_a_signature_or_the_token(store: Any, endpoint: Any, node: Any) -> None:
    endpoint.make_url = lambda method, key: store.url(key) + "&X-Amz-Signature=hush"
    store.faults["bucket/x"] = [500, ("cut", 1)]
    store.put("bucket/x", b"xyz")
    endpoint.add_input("x", "bucket/x")
    endpoint.add_input("y", "bucket/none")
    manifest = node.fetch()
    everything = "".join(node.lines) + json.dumps(manifest)
    assert "hush" not in everything
    assert "secret-token" not in everything


@both_forms
@pytest.mark.parametrize("status", [302, 308])
def test_a_store_that_sends_elsewhere_is_not_followed(
    store: Any, endpoint: Any, node: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Else whoever can write an object's metadata could have nodes ask any server that they reach."""
    monkeypatch.setattr(bring, "HEAD_TRIES", 2)
    asked: list[str] = []

    class Elsewhere(QuietHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.answer(200, b"x")

        do_HEAD = do_GET

    class Sends(QuietHandler):
        def do_GET(self) -> None:
            self.answer(status, b"", {"Location": f"http://127.0.0.1:{elsewhere}/inside"})

        do_HEAD = do_GET

    with serving(Elsewhere) as elsewhere, serving(Sends) as sends:
        endpoint.make_url = lambda method, key: f"http://127.0.0.1:{sends}/{key}"
        endpoint.add_input("x", "bucket/x")
        manifest = node.fetch()
    assert not manifest["ok"]
    assert f"HTTP {status}" in json.dumps(manifest)
    assert asked == []


@both_forms
def test_an_expired_url_is_refreshed_by_asking_for_the_plan_again(store: Any, endpoint: Any, node: Any) -> None:
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    stale = endpoint.sign

    def sign(method: str, key: str) -> str:
        url = stale(method, key)
        endpoint.generation += 1
        store.oldest_valid = 2
        return url

    endpoint.make_url = None
    endpoint.sign = sign
    assert node.fetch()["ok"]
    assert endpoint.asked.count("/v1/plan") >= 2


@both_forms
@pytest.mark.parametrize("status", [401, 403, 410])
def test_a_refused_attempt_stops_at_once(endpoint: Any, node: Any, status: int) -> None:
    endpoint.add_input("x", "bucket/x")
    endpoint.script["/v1/plan"] = [status]
    manifest = node.fetch()
    assert "attempt is over" in manifest["error"]
    assert manifest.get("disrupted", False) == (status == 410), "an attempt that goes on after all is to be repeated"
    assert endpoint.asked == ["/v1/plan"]


@both_forms
@pytest.mark.parametrize("status", [425, 429, 503])
def test_an_endpoint_that_is_not_ready_is_asked_again(store: Any, endpoint: Any, node: Any, status: int) -> None:
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    endpoint.script["/v1/plan"] = [status]
    assert node.fetch()["ok"]
    assert endpoint.asked == ["/v1/plan"] * 2


@both_forms
def test_an_endpoint_that_stays_down_fails_the_step_when_the_patience_ends(endpoint: Any, node: Any) -> None:
    endpoint.add_input("x", "bucket/x")
    endpoint.script["/v1/plan"] = [503] * 50
    manifest = node.fetch(patience=0.3)
    assert "no answer to GET /v1/plan" in manifest["error"]
    assert "scripted 503" in manifest["error"]


def test_a_manifest_too_long_for_the_message_leaves_its_inputs_out(store: Any, endpoint: Any, node: Any) -> None:
    for number in range(40):
        store.put(f"bucket/{number}", b"%d" % number)
        endpoint.add_input(f"a-rather-long-name-{number}", f"bucket/{number}")
    manifest = node.fetch()
    message = (node.root / "fetch-message").read_bytes()
    short = json.loads(message)
    whole = (node.root / "state" / "fetch.json").read_bytes()
    assert len(message) <= MESSAGE_BYTES
    assert "inputs" not in short
    assert short["misses"] == 40
    assert short["manifestSha256"] == hashlib.sha256(whole).hexdigest()
    assert json.loads(whole) == manifest


def test_an_error_too_long_for_the_message_is_shortened(endpoint: Any, node: Any) -> None:
    endpoint.add_input("x", "bucket/" + "ü" * 3000)
    manifest = node.fetch()
    message = (node.root / "fetch-message").read_bytes()
    assert len(message) <= MESSAGE_BYTES
    assert json.loads(message)["error"].startswith("input 'x'")
    assert not manifest["ok"]


@both_forms
@pytest.mark.parametrize(
    ("damage", "verify"),
    [("truncate", "size"), ("touch", "size"), ("grow", "size"), ("tamper", "always"), ("replace", "size")],
)
def test_a_damaged_blob_is_quarantined_and_fetched_again(
    store: Any, endpoint: Any, make_node: Any, damage: str, verify: str
) -> None:
    """FAULTS 24: whatever was done to the blob, the task gets the right bytes and the miss says corrupt."""
    digest = store.put("bucket/x", b"0123456789")
    endpoint.add_input("x", "bucket/x", verify=verify)
    first = make_node("a")
    first.fetch()
    blob = first.blob(digest)
    found = blob.stat()
    blob.chmod(0o644)
    if damage == "truncate":
        os.truncate(blob, 3)
        os.utime(blob, ns=(found.st_mtime_ns, found.st_mtime_ns))
    elif damage == "touch":
        os.utime(blob)
    elif damage == "grow":
        blob.write_bytes(b"0123456789 and more")
    elif damage == "tamper":
        blob.write_bytes(b"9876543210")
        os.utime(blob, ns=(found.st_mtime_ns, found.st_mtime_ns))
    else:
        blob.unlink()
        blob.write_bytes(b"0123456789")
    node = make_node("b")
    assert causes(node.fetch()) == {"x": "corrupt"}
    assert node.read("x") == b"0123456789"
    assert len(list((node.cache / "quarantine").iterdir())) == 1
    assert causes(make_node("c").fetch()) == {"x": "cached"}


@both_forms
def test_a_cache_folder_that_cannot_be_made_is_bypassed(store: Any, endpoint: Any, make_node: Any) -> None:
    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    node = make_node("a")
    node.cache.write_text("a file where the folder should be")
    assert causes(node.fetch()) == {"x": "cache-fault"}
    assert node.read("x") == b"x"


@both_forms
def test_two_names_for_one_content_are_one_download(store: Any, endpoint: Any, node: Any) -> None:
    digest = store.put("bucket/x", b"same")
    for name in ("one", "two"):
        endpoint.add_input(name, "bucket/x", sha256=digest, bytes=4, headUrl=None)
    manifest = node.fetch()
    assert (manifest["hits"], manifest["misses"]) == (1, 1)
    assert store.count("GET", "bucket/x") == 1
    assert node.read("one") == node.read("two") == b"same"


@both_forms
def test_an_empty_object_is_an_input_like_any_other(store: Any, endpoint: Any, make_node: Any) -> None:
    store.put("bucket/empty", b"")
    endpoint.add_input("empty", "bucket/empty")
    assert causes(make_node("a").fetch()) == {"empty": "never-here"}
    node = make_node("b")
    assert causes(node.fetch()) == {"empty": "cached"}
    assert node.read("empty") == b""


def test_fetch_runs_as_a_process_and_as_a_zipapp(store: Any, endpoint: Any, make_node: Any, tmp_path: Path) -> None:
    import subprocess
    import sys
    import zipapp

    from agent.version import VERSION

    store.put("bucket/x", b"x")
    endpoint.add_input("x", "bucket/x")
    node = make_node("a")
    process = node.start("fetch")
    output = process.communicate()[0].decode()
    assert process.returncode == 0, output
    assert output.endswith("[HELIOS] Init container completed.\n")
    packed = tmp_path / "helios-agent.pyz"
    zipapp.create_archive(Path(__file__).parents[2] / "agent", packed)
    command = [sys.executable, "-I", "-S", str(packed)]
    assert subprocess.check_output([*command, "version"], text=True).strip() == VERSION
    other = make_node("b")
    assert subprocess.run([*command, "fetch"], env=other.env(), check=False).returncode == 0
    assert other.read("x") == b"x"


def test_a_wrong_environment_is_named(node: Any) -> None:
    env = node.env()
    del env["HELIOS_JOB"]
    process = node.start("fetch", env=env)
    assert process.communicate()[0] == b"[HELIOS] Error: HELIOS_JOB is not set\n"
    assert process.returncode == 2


@both_forms
@pytest.mark.parametrize("make", [lambda: "verified"])
def test_verify_always_hits_when_the_blob_is_sound(
    store: Any, endpoint: Any, make_node: Any, make: Callable[[], str]
) -> None:
    store.put("bucket/x", make().encode())
    endpoint.add_input("x", "bucket/x", verify="always")
    make_node("a").fetch()
    assert causes(make_node("b").fetch()) == {"x": "cached"}


def test_the_wrapper_is_put_where_any_user_can_execute_it(endpoint: Any, node: Any) -> None:
    wrapper = node.root / "wrapper"
    wrapper.write_bytes(b"#!/bin/sh\nexit 0\n" + bytes(100_000))
    process = node.start("fetch", env={**node.env(), "HELIOS_WRAPPER": str(wrapper)}, umask=0o077)
    assert process.communicate(timeout=60)[0].endswith(b"completed.\n")
    placed = node.control / "exec"
    assert placed.read_bytes() == wrapper.read_bytes()
    assert oct(placed.stat().st_mode)[-3:] == "555"
    assert list(node.control.iterdir()) == [placed]


def test_a_wrapper_that_cannot_be_put_in_place_fails_the_step_with_that_reason(endpoint: Any, node: Any) -> None:
    process = node.start("fetch", env={**node.env(), "HELIOS_WRAPPER": "/nowhere/exec"})
    process.communicate(timeout=60)
    assert process.returncode == 1
    message = json.loads((node.root / "message").read_bytes())
    assert message["error"] == "the task's wrapper cannot be put in place: No such file or directory"
