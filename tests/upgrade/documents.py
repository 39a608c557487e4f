# What is printed is a test reads it:
# ruff: noqa: T201
"""What this version says, one document a line, or reads: run from any version's tree.

    python documents.py say
    python documents.py read < lines

Each line is {"kind": …, "text": …}. To read is to decode as the one that gets it does, and to say what came of it.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from agent.control import ExitRecord
from agent.manifest import fetch_manifest, fetch_message
from agent.plan import read_plan
from agent.report import UNDELIVERED, Outcome, message, report_document
from agent.settings import Attempt
from helios import events, messages, podwire, tokens
from helios.dag import Dag, parse_dag
from helios.records import AttemptRecord, InputRecord, OutputRecord, decode_attempt
from services.collector.outcome import publish_message as read_publish_message

DIGEST = "ab" * 32
ATTEMPT = Attempt(
    endpoint="http://h", token="t", run_id="1-0", task="a", attempt=1, pod_uid="u", node="n", plan_patience_seconds=1.0
)
EXIT = ExitRecord(0, None, False, 1, 2, 3, 4, None)
DAG = b'{"dagName": "d", "tasks": [{"name": "a", "image": "i", "command": ["x"], "memoize": true}]}'


def said() -> dict[str, Any]:
    """Documents by kind, as bytes or as what is encoded."""
    stored = podwire.Stored(codec="zstd", bytes=5)
    planned = podwire.PlanInput(
        name="i",
        mode="link",
        verify="size",
        url="http://s/i",
        headUrl=None,
        source="s/b/i",
        sha256=DIGEST,
        bytes=7,
        archive=False,
        stored=stored,
    )
    put = podwire.PlanOutput(name="o", key="k", url="http://s/o")
    keeper = podwire.PlanKeeper(putUrl="http://k/o")
    plan = podwire.Plan(
        run="1-0",
        task="a",
        attempt=1,
        cacheEnabled=True,
        inputs=[planned],
        outputs=[put],
        singlePutLimit=10,
        manifest=put,
        locate=True,
        keeper=keeper,
    )
    outcome = Outcome(EXIT)
    manifest: Any = fetch_manifest([], cache_enabled=True, error=None, elapsed_ms=1, ended_at=2)
    record = AttemptRecord(
        exitCode=0, inputs=[InputRecord("i", 7, "cached")], outputs=[OutputRecord("o", 9, DIGEST, "k", stored=stored)]
    )
    node = podwire.NodeReport(node="n", epoch="e", seq=1, state=podwire.NodeState(blobs=1))
    return {
        "plan": plan,
        "report": json.dumps(report_document(ATTEMPT, outcome, manifest)).encode(),
        "fetch message": fetch_message(manifest),
        "publish message": message(outcome, UNDELIVERED),
        "record": record,
        "node report": node,
        "event": events.TaskEnded("1-0", "a", 1, "FAILED", "Hit", 1, 2, "n", "why"),
        "dag": parse_dag(DAG).dag,
        "launched": msgspec.to_builtins(messages.Launched("1-0", "a", 1, "j")),
        "token": tokens.mint("k", tokens.Attempt("1-0", "a", 1, 2**40)).encode(),
    }


READERS: dict[str, Callable[[bytes], Any]] = {
    "plan": lambda text: read_plan(text).inputs[0].name,
    "report": lambda text: msgspec.json.decode(text, type=podwire.Report).task,
    "fetch message": lambda text: msgspec.json.decode(text, type=podwire.FetchManifest).step,
    "publish message": lambda text: getattr(read_publish_message(text.decode()), "step", None),
    "record": lambda text: decode_attempt(text).outputs[0].name,
    "node report": lambda text: msgspec.json.decode(text, type=podwire.NodeReport).node,
    "event": lambda text: type(events.decode_event(text)).__name__,
    "dag": lambda text: msgspec.json.decode(text, type=Dag).tasks[0].name,
    "launched": lambda text: (
        messages.decode({name: str(value) for name, value in json.loads(text).items()}, messages.Launched).job
    ),
    "token": lambda text: tokens.check("k", text.decode(), 1.0).task,
}
WANTED = {
    "plan": "i",
    "report": "a",
    "fetch message": "fetch",
    "publish message": "publish",
    "record": "o",
    "node report": "n",
    "event": "TaskEnded",
    "dag": "a",
    "launched": "j",
    "token": "a",
}


def main() -> None:
    if sys.argv[1] == "say":
        for kind, what in said().items():
            text = what if isinstance(what, bytes) else msgspec.json.encode(what)
            print(json.dumps({"kind": kind, "text": text.decode()}))
        return
    for line in sys.stdin:
        document = json.loads(line)
        try:
            got = READERS[document["kind"]](document["text"].encode())
        except Exception as error:  # noqa: BLE001 -- to be told to the test
            got = f"{type(error).__name__}: {error}"
        print(json.dumps({"kind": document["kind"], "got": got}))


if __name__ == "__main__":
    main()
