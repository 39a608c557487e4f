"""A stand-in for the agent: fetch and publish do what FAKE_FETCH and FAKE_PUBLISH say; exec is the real wrapper.

Installed as the `__main__.py` of a folder by the tests.
"""

import fcntl
import json
import os
import sys
import time


def note_environment(verb):
    with open(os.path.join(os.environ["HELIOS_STATE_DIR"], f"{verb}.env.json"), "w") as out:
        json.dump(dict(os.environ), out)


def fetch():
    note_environment("fetch")
    os.makedirs(os.path.join(os.environ["HELIOS_CACHE_DIR"], "views", os.environ["HELIOS_JOB"]), exist_ok=True)
    os.write(1, b"[HELIOS] Init container starting\n")
    if os.environ.get("FAKE_FETCH") == "fail":
        with open(os.environ["HELIOS_TERMINATION_LOG"], "w") as out:
            json.dump({"ok": False, "error": "input corpus.txt: no such object"}, out)
        return 1
    return 0


def publish():
    note_environment("publish")
    control = os.environ["HELIOS_CONTROL_DIR"]
    while not os.path.exists(os.path.join(control, "started")):
        time.sleep(0.005)
    with open(os.path.join(control, "lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
    if os.environ.get("FAKE_PUBLISH") == "fail":
        with open(os.environ["HELIOS_TERMINATION_LOG"], "w") as out:
            json.dump({"reason": "output n was not written"}, out)
        return 1
    return 0


if __name__ == "__main__":
    verb = sys.argv[1]
    if verb == "exec":
        os.execv(sys.executable, [sys.executable, "-I", "-S", "REAL_AGENT", *sys.argv[1:]])
    sys.exit({"fetch": fetch, "publish": publish}[verb]())
