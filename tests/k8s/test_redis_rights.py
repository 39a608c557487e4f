"""What each of Redis's users may do, whole: every command that k8s/users.acl names against every key that
helios/keys.py can spell, asked of a real server. What is not in redis_rights.txt is refused.

A right that is new, wider or gone changes that file, so whoever gives one lists it:

    python -m tests.k8s.test_redis_rights      writes it anew
"""

import inspect
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import NoPermissionError

from helios import keys as spelled
from helios.keys import CONTROLS, SUBMISSIONS, Keys
from helios.transitions import COLLECTOR_GROUP, END_ATTEMPT, JOBRUNNER_GROUP, SUBMITTER_GROUP
from helios.wire import send
from tests.k8s.conftest import K8S, GuardedRedis, make_secrets

RIGHTS = Path(__file__).with_name("redis_rights.txt")
USERS = ("submitter", "jobrunner", "collector", "client", "submit", "scaler", "api")
SERVICES = (SUBMITTER_GROUP, JOBRUNNER_GROUP, COLLECTOR_GROUP, "api")
RUN = "1764027260123-0"
SAMPLES = {
    "run": RUN,
    "task": "t",
    "attempt": 1,
    "step": "task",
    "dag_name": "d",
    "whose": "d",
    "request_id": "r",
    "node": "n",
    "key": "k",
    "source": "s/b/k",
    "reference": "image:1",
    "replica": "x",
    "priority": "low",
    "schedule_name": "s",
    "trigger_name": "t",
    "entry": RUN,
}
NOT_KEYS = {"partition", "prefix", "task_prefix", "log_prefix", "ready_streams"}
"""What keys begin with, and no key."""

KEYED: dict[str, tuple[str, ...]] = {
    "del": ("DEL", "KEY"),
    "evalsha": ("EVALSHA", "0" * 40, "1", "KEY"),
    "exists": ("EXISTS", "KEY"),
    "expire": ("EXPIRE", "KEY", "9"),
    "get": ("GET", "KEY"),
    "hdel": ("HDEL", "KEY", "f"),
    "hget": ("HGET", "KEY", "f"),
    "hgetall": ("HGETALL", "KEY"),
    "hincrby": ("HINCRBY", "KEY", "f", "1"),
    "hlen": ("HLEN", "KEY"),
    "hmget": ("HMGET", "KEY", "f"),
    "hset": ("HSET", "KEY", "f", "v"),
    "llen": ("LLEN", "KEY"),
    "lpop": ("LPOP", "KEY"),
    "lrange": ("LRANGE", "KEY", "0", "-1"),
    "mget": ("MGET", "KEY"),
    "persist": ("PERSIST", "KEY"),
    "rpush": ("RPUSH", "KEY", "v"),
    "sadd": ("SADD", "KEY", "v"),
    "scard": ("SCARD", "KEY"),
    "set": ("SET", "KEY", "v"),
    "sismember": ("SISMEMBER", "KEY", "v"),
    "smembers": ("SMEMBERS", "KEY"),
    "srem": ("SREM", "KEY", "v"),
    "type": ("TYPE", "KEY"),
    "unlink": ("UNLINK", "KEY"),
    "xack": ("XACK", "KEY", "g", "1-1"),
    "xadd": ("XADD", "KEY", "*", "f", "v"),
    "xclaim": ("XCLAIM", "KEY", "g", "c", "0", "1-1"),
    "xdel": ("XDEL", "KEY", "1-1"),
    "xgroup|create": ("XGROUP", "CREATE", "KEY", "g", "0"),
    "xgroup|delconsumer": ("XGROUP", "DELCONSUMER", "KEY", "g", "c"),
    "xinfo|consumers": ("XINFO", "CONSUMERS", "KEY", "g"),
    "xinfo|groups": ("XINFO", "GROUPS", "KEY"),
    "xinfo|stream": ("XINFO", "STREAM", "KEY"),
    "xlen": ("XLEN", "KEY"),
    "xpending": ("XPENDING", "KEY", "g"),
    "xrange": ("XRANGE", "KEY", "-", "+"),
    "xread": ("XREAD", "STREAMS", "KEY", "0"),
    "xreadgroup": ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "KEY", ">"),
    "xrevrange": ("XREVRANGE", "KEY", "+", "-"),
    "xtrim": ("XTRIM", "KEY", "MAXLEN", "0"),
    "zadd": ("ZADD", "KEY", "1", "m"),
    "zcard": ("ZCARD", "KEY"),
    "zincrby": ("ZINCRBY", "KEY", "1", "m"),
    "zrange": ("ZRANGE", "KEY", "0", "-1"),
    "zrem": ("ZREM", "KEY", "m"),
    "zremrangebyscore": ("ZREMRANGEBYSCORE", "KEY", "0", "1"),
    "zrevrange": ("ZREVRANGE", "KEY", "0", "-1"),
    "zscore": ("ZSCORE", "KEY", "m"),
}
KEYLESS: dict[str, tuple[str, ...]] = {
    "acl|whoami": ("ACL", "WHOAMI"),
    "client|setinfo": ("CLIENT", "SETINFO", "LIB-NAME", "x"),
    "exec": ("EXEC",),
    "info": ("INFO",),
    "multi": ("MULTI",),
    "ping": ("PING",),
    "scan": ("SCAN", "0"),
    "script|load": ("SCRIPT", "LOAD", "return 1"),
    "time": ("TIME",),
    "waitaof": ("WAITAOF", "1", "0", "1"),
}
DANGEROUS = {each: {"info"} for each in ("api", "client", "scaler", "submitter", "collector")}
"""What is given of that which the server calls dangerous or administration: INFO is read by the doctor, by the HTTP
API, by KEDA, by the submitter, which has submissions wait when memory is short, and by the collector, whose metrics say
how full it is."""


def every_key() -> dict[str, str]:
    """By kind, one key of each that helios/keys.py can spell; and three that it cannot, one of
    which triggers may read."""
    found: dict[str, str] = {
        "elsewhere": "elsewhere",
        "events:*": "events:orders",
        "helios:<unknown>": "helios:unknown",
    }
    for name, value in vars(spelled).items():
        if isinstance(value, str) and value.startswith("helios:") and not name.endswith("_PREFIX"):
            found[value] = value
        elif inspect.isfunction(value) and value.__module__ == spelled.__name__ and not name.startswith("_"):
            parameters = set(inspect.signature(value).parameters)
            if "service" in parameters:
                found |= {f"heartbeat of a {each}": value(each, "x") for each in SERVICES}
            elif parameters <= set(SAMPLES):
                made = value(**{each: SAMPLES[each] for each in parameters})
                if isinstance(made, str) and made.startswith("helios:"):
                    found[name] = made
    partition = Keys(0)
    for name, value in vars(partition).items():
        if name not in NOT_KEYS:
            found[f"Keys.{name}"] = value
    for name, method in inspect.getmembers(partition, inspect.ismethod):
        if not name.startswith("_") and name not in NOT_KEYS:
            parameters = inspect.signature(method).parameters
            found[f"Keys.{name}"] = method(**{each: SAMPLES[each] for each in parameters})
    return found


def granted(server: GuardedRedis, user: str) -> set[str]:
    """The commands that a user's rules name, from all its selectors."""
    return set(re.findall(r"\+([a-z|@]+)", json.dumps(rules(server, user))))


def rules(server: GuardedRedis, user: str) -> Any:
    return server.admin.execute_command("ACL GETUSER", user)


def matrix(server: GuardedRedis) -> str:
    """A line for each user and set of commands: the keys that it may use them on. `-`: commands that take no key."""
    lines: list[str] = []
    for user in USERS:
        found: dict[tuple[str, ...], list[str]] = {}
        for kind, key in every_key().items():
            commands = [tuple(key if word == "KEY" else word for word in words) for words in KEYED.values()]
            answers = send(server.admin, [("ACL", "DRYRUN", user, *command) for command in commands])
            may = tuple(name for name, answer in zip(KEYED, answers, strict=True) if answer == "OK")
            found.setdefault(may, []).append(kind)
        answers = send(server.admin, [("ACL", "DRYRUN", user, *command) for command in KEYLESS.values()])
        may = tuple(name for name, answer in zip(KEYLESS, answers, strict=True) if answer == "OK")
        found.setdefault(may, []).append("-")
        for commands, kinds in found.items():
            for kind in kinds:
                lines.append(f"{user:<10} {kind:<26} {' '.join(commands) or 'nothing'}")
    return "\n".join(lines) + "\n"


def test_every_user_may_do_exactly_what_is_listed(guarded: GuardedRedis) -> None:
    """A user of the file that is not listed, a command that is not asked for here, or any other difference fails."""
    assert {*re.findall(r"^user (\w+)", (K8S / "users.acl").read_text(), re.MULTILINE)} == {"default", *USERS}
    named = set[str]().union(*(granted(guarded, user) for user in USERS))
    assert named <= {*KEYED, *KEYLESS}, "users.acl gives a command that is to be added here"
    expected, found = RIGHTS.read_text().splitlines(), matrix(guarded).splitlines()
    assert [line for line in found if line not in expected] == [], "rights that are not listed"
    assert [line for line in expected if line not in found] == [], "rights that are listed and not given"


@pytest.mark.parametrize("user", USERS)
def test_nobody_has_a_whole_category_every_key_or_a_channel(guarded: GuardedRedis, user: str) -> None:
    """All else is refused, commands of servers to come included."""
    text = json.dumps(rules(guarded, user))
    assert "-@all" in text
    assert "+@" not in text
    for everything in ('"~*"', "allkeys", "&*", "allchannels", "nopass", "allcommands"):
        assert everything not in text
    for kind in ("elsewhere",) if user == "client" else ("elsewhere", "helios:<unknown>"):
        assert f"{user:<10} {kind:<26} nothing" in RIGHTS.read_text().splitlines()


@pytest.mark.parametrize("user", USERS)
def test_nothing_dangerous_is_given_to_anybody(guarded: GuardedRedis, user: str) -> None:
    """By the server's own categories, so a command that a newer server has is among them."""
    dangerous: set[str] = set()
    for category in ("dangerous", "admin"):
        found: Any = guarded.admin.execute_command("COMMAND LIST FILTERBY ACLCAT", category)
        dangerous |= {str(each).lower() for each in found}
    assert {"flushall", "config|set", "keys", "debug", "acl|setuser", "replicaof", "shutdown"} <= dangerous
    assert granted(guarded, user) & dangerous == DANGEROUS.get(user, set())
    assert granted(guarded, user) & {"eval", "fcall", "function|load", "script|flush", "xgroup|destroy"} == set()


FOREIGN = """
local found = {}
for _, command in ipairs({{'FLUSHALL'}, {'KEYS', '*'}, {'CONFIG', 'GET', '*'}, {'SCRIPT', 'FLUSH'}, %s}) do
  local answer = redis.pcall(unpack(command))
  found[#found + 1] = (type(answer) == 'table' and answer.err) and 'refused' or command[1]
end
return found
"""
OTHERS: dict[str, tuple[str, ...]] = {
    "submitter": (
        f"{{'XADD', '{Keys(0).log(RUN, 't', 1, 'task')}', '*', 'line', 'x'}}",
        "{'SET', 'helios:gc', 'x'}",
        "{'HSET', 'helios:memo:k', 'state', 'good'}",
        "{'GET', 'elsewhere'}",
    ),
    "jobrunner": (
        f"{{'XADD', '{SUBMISSIONS}', '*', 'dag', 'x'}}",
        f"{{'XADD', '{Keys(0).finished}', '*', 'run', 'x'}}",
        f"{{'HGETALL', '{Keys(0).run(RUN)}'}}",
        "{'HGETALL', 'helios:memo:k'}",
        "{'GET', 'elsewhere'}",
    ),
    "collector": (
        f"{{'XADD', '{SUBMISSIONS}', '*', 'dag', 'x'}}",
        f"{{'XADD', '{CONTROLS}', '*', 'run', 'x'}}",
        f"{{'XREADGROUP', 'GROUP', 'jobrunner', 'x', 'STREAMS', '{Keys(0).ready}', '>'}}",
        f"{{'HGETALL', '{Keys(0).request('r')}'}}",
        "{'GET', 'elsewhere'}",
    ),
}


@pytest.mark.parametrize("user", OTHERS)
def test_a_script_of_ones_own_can_do_no_more_than_its_caller(guarded: GuardedRedis, user: str) -> None:
    """A stolen service's credential loads what it likes; inside, it is still that user."""
    with guarded.client(user) as client:
        source = FOREIGN % ", ".join(OTHERS[user])
        digest = client.script_load(source)
        answers: Any = client.evalsha(digest, 0)
        assert set(answers) == {"refused"}
        with pytest.raises(NoPermissionError):
            client.evalsha(digest, 1, "elsewhere")
        with pytest.raises(NoPermissionError):
            client.eval("return 1", 0)


@pytest.mark.parametrize("user", ["client", "submit", "scaler", "api"])
def test_people_and_senders_run_no_script_not_even_one_of_the_services(guarded: GuardedRedis, user: str) -> None:
    guarded.admin.script_load(END_ATTEMPT.source)
    with guarded.client(user) as client:
        for refused in (
            lambda: client.evalsha(END_ATTEMPT.sha, 1, Keys(0).task(RUN, "t")),
            lambda: client.script_load("return 1"),
            lambda: client.eval("return 1", 0),
        ):
            with pytest.raises(NoPermissionError):
                refused()


def test_the_client_neither_adds_work_nor_flips_records_nor_takes_entries(guarded: GuardedRedis) -> None:
    """Tried in earnest, on data that is there."""
    partition = Keys(0)
    streams = (partition.ready, partition.checks, partition.launched, partition.cancelled, partition.finished)
    for stream in (*streams, partition.settled, partition.events):
        guarded.admin.xadd(stream, {"run": RUN})
        guarded.admin.xgroup_create(stream, "g", id="0")
    guarded.admin.hset(partition.run(RUN), "status", "FAILED")
    guarded.admin.hset(partition.task(RUN, "t"), "status", "FAILED")
    with guarded.client("client") as client:
        for refused in (
            *(lambda stream=stream: client.xadd(stream, {"run": RUN}) for stream in (*streams, partition.settled)),
            *(lambda stream=stream: client.xreadgroup("g", "c", {stream: ">"}) for stream in streams),
            *(lambda stream=stream: client.xack(stream, "g", "1-1") for stream in streams),
            lambda: client.xadd(partition.events, {"event": "{}"}),
            lambda: client.hset(partition.run(RUN), "status", "SUCCEEDED"),
            lambda: client.hset(partition.task(RUN, "t"), "status", "SUCCEEDED"),
            lambda: client.delete(partition.run(RUN)),
            lambda: client.set(partition.dag(RUN), "{}"),
            lambda: client.delete(SUBMISSIONS),
            lambda: client.flushall(),
            lambda: client.get("elsewhere"),
        ):
            with pytest.raises(NoPermissionError):
                refused()
        assert client.hget(partition.run(RUN), "status") == "FAILED"


def written_anew() -> Iterator[str]:
    """The file's new text, from a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        credentials = Path(folder) / "secrets"
        assert make_secrets(credentials).returncode == 0
        server = GuardedRedis(Path(folder), credentials)
        try:
            yield matrix(server)
        finally:
            server.stop()


if __name__ == "__main__":
    for text in written_anew():
        RIGHTS.write_text(text)
        sys.stdout.write(text)
