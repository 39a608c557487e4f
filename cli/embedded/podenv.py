"""What each step of a pod finds in its environment. Pure, but for reading the secrets' files and finding one package.

The task never sees a token, a store's or Valkey's credential: its environment is built from a list of what it may have,
not by taking things away from this process's.
"""

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from cli.embedded.localpaths import localised
from helios.localjobs import LocalJob, artifacts_folder, message_file, pod_folder

INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "TZ", "VIRTUAL_ENV")
INHERITED_PREFIXES = ("LC_", "CONDA_")
NOT_FOR_THE_TASK = ("HELIOS_TOKEN", "HELIOS_ENDPOINT")
POD_UID = "POD_UID"
"""A variable all processes of a pod inherit, by which the node finds those that left their process group."""


class SecretMissing(Exception):
    """A task asks for a secret that is not there; the message names the file to create."""


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the node's own environment that pods get."""
    return {name: value for name, value in environ.items() if name in INHERITED or name.startswith(INHERITED_PREFIXES)}


def secrets_of(job: LocalJob, folder: Path) -> dict[str, str]:
    """The values of the task's secrets, from <folder>/<secret>/<key>; one newline at the end does not count."""
    found: dict[str, str] = {}
    for each in job.secrets:
        if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in (each.secret, each.key)):
            raise SecretMissing(f"{each.name} asks for the secret {each.secret}/{each.key}, which is no usable name")
        file = folder / each.secret / each.key
        try:
            found[each.name] = file.read_bytes().decode().removesuffix("\n")
        except UnicodeDecodeError:
            raise SecretMissing(f"{each.name} is read from {file}, which is not UTF-8 text") from None
        except OSError as error:
            raise SecretMissing(
                f"{each.name} is read from {file}, which cannot be read ({error.strerror}); "
                "create that file with the secret's value in it"
            ) from None
    return found


def agent_env(
    job: LocalJob, step: str, *, base: Mapping[str, str], directory: Path, cache: Path, uid: str, node: str
) -> dict[str, str]:
    """The environment of fetch and publish, and the agent's part of exec's."""
    pod = pod_folder(directory, job.job)
    packages = packages_folder()
    return {
        **base,
        **job.agentEnv,
        "HELIOS_CACHE_DIR": str(cache),
        "HELIOS_JOB": job.job,
        "HELIOS_POD_UID": uid,
        "HELIOS_NODE": node,
        "HELIOS_ARTIFACTS": str(artifacts_folder(directory, job.job)),
        "HELIOS_CONTROL_DIR": str(pod / "control"),
        "HELIOS_STATE_DIR": str(pod / "state"),
        "HELIOS_TERMINATION_LOG": str(message_file(directory, job.job, step)),
        POD_UID: uid,
        **({"HELIOS_AGENT_LIB": packages} if packages is not None else {}),
    }


@functools.cache
def packages_folder() -> str | None:
    """Where the agent, which starts without this Python's packages, finds zstd; None where Python has it itself."""
    try:
        found = importlib.util.find_spec("backports.zstd")
    except ModuleNotFoundError:
        return None
    return str(Path(found.origin).parents[2]) if found is not None and found.origin is not None else None


def task_env(job: LocalJob, secrets: Mapping[str, str], agent: Mapping[str, str], lifeline_fd: int) -> dict[str, str]:
    """The environment of exec: the task's own variables, and those that the wrapper works by and keeps to itself."""
    plain = {name: localised(value, agent["HELIOS_ARTIFACTS"]) for name, value in job.env.items()}
    own = {name: value for name, value in {**plain, **secrets}.items() if not name.startswith("HELIOS_")}
    env = {**agent, **own, POD_UID: agent[POD_UID], "HELIOS_LIFELINE_FD": str(lifeline_fd)}
    if job.timeoutSeconds is not None:
        env["HELIOS_TIMEOUT_SECONDS"] = str(job.timeoutSeconds)
    return {name: value for name, value in env.items() if name not in NOT_FOR_THE_TASK}
