"""What the cache saves a recorded workflow on one node whose link to the store is limited, without Kubernetes.

    python -m bench.cache_link [FILE …] [--json FILE] [--megabytes N] [--rate RATE]

Each FILE is a recorded workflow (WfFormat 1.5, bench/replay.py); without one the small one of bench/data. Files are
scaled down to about the megabytes given in all (0: as recorded), run times to zero. Local mode runs it cold, warm and
with useCache: false, in a network namespace of the benchmark's own, in which tc limits the loopback interface: the
store's link, and all else that local mode's processes say to each other. The kernel counts the bytes from the store.

Pods of a cluster cost a small machine a second of processor time each, which bench/cache_cluster.py has in its figures;
here they are processes, so this is about the bytes. Needs root, and disk for all files and four times the largest.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from bench.cache_cluster import TASK, Done, Noise, distinct_bytes, figures
from bench.local import Local, local, succeeded
from bench.replay import BUCKET, DATA, Workflow, file_name, read_workflow, scaled_sizes, to_dag
from bench.report import Metric, tell
from tests.cluster.store_link import GIGABIT

INSIDE = "HELIOS_BENCH_INSIDE"


def measure(place: Local, workflow: Workflow, megabytes: float, rate: str) -> dict[str, Metric]:
    sizes = scaled_sizes(workflow, megabytes) if megabytes else workflow.sizes
    if not place.store.bucket_exists(BUCKET):
        place.store.make_bucket(BUCKET)
    for file in workflow.external:
        size = sizes.get(file, 1)
        place.store.put_object(BUCKET, f"{workflow.name}/{file_name(file)}", Noise(file, size), size)  # pyright: ignore[reportArgumentType] -- it is read from only
    dag = to_dag(workflow, sizes, 0)
    for task in dag["tasks"]:
        task["command"] = [sys.executable, "-I", "-S", "-c", TASK, task["command"][-1]]
    found: dict[str, Done] = {}
    limit(rate)
    try:
        for name, use_cache in (("cold", True), ("warm", True), ("cache off", False)):
            before = sent(place)
            run, tasks = place.run(dag, use_cache=use_cache)
            succeeded(run, tasks)
            found[name] = Done(run["durationMs"] / 1000, {"local": sent(place) - before}, tasks)
            print(
                f"  {name}: {found[name].seconds:.1f} s, {found[name].from_store / 1e6:,.0f} MB from the store",
                flush=True,
            )
    finally:
        run_command("tc", "qdisc", "del", "dev", "lo", "root")
    return figures(f"{workflow.name[:10]}, one node, {rate}", found, distinct_bytes(workflow, sizes), rate)


def limit(rate: str) -> None:
    run_command("tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", rate, "burst", "1mb", "latency", "50ms")


def sent(place: Local) -> int:
    """Bytes that the store has sent; counted from the first call on."""
    port = str(urlsplit(place.stack.s3_endpoint).port)
    rule = ("OUTPUT", "-p", "tcp", "--sport", port)
    if subprocess.run(["iptables", "-w", "-C", *rule], capture_output=True).returncode:
        run_command("iptables", "-w", "-A", *rule)
    lines = run_command("iptables", "-w", "-L", "OUTPUT", "-v", "-x", "-n").splitlines()
    return next(int(line.split()[1]) for line in lines if line.endswith(f"spt:{port}"))


def run_command(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[DATA])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--megabytes", type=float, default=200, help="all files of a workflow together; 0: as recorded")
    parser.add_argument("--rate", default=GIGABIT, help="as tc takes it")
    options = parser.parse_args()
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.orig_argv[1:]])
    run_command("ip", "link", "set", "lo", "up")
    metrics: dict[str, Metric] = {}
    with local() as place:
        for file in options.files:
            metrics |= measure(place, read_workflow(file.read_bytes()), options.megabytes, options.rate)
    tell(metrics, options.json)


if __name__ == "__main__":
    main()
