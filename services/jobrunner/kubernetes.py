"""Jobs of Kubernetes, through the official client but without its models: JSON goes out, and small structs come back.

The only module here that imports the client, which takes long and much memory.
"""

import os
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import structlog
import urllib3
from kubernetes import config as _untyped_config
from kubernetes.client import ApiClient, ApiException, Configuration
from kubernetes.config import ConfigException

from helios.measures import API_REQUESTS, API_SECONDS, answer_class
from helios.settings import SettingInvalid, Settings
from services.jobrunner.answers import Verdict, decoded, judge, words_of
from services.jobrunner.forms import Forms
from services.jobrunner.jobs import ExistingJob, JobRefused, LauncherAway, WantedJob
from services.jobrunner.manifest import ATTEMPT, HELIOS, MANAGED_BY, RUN, SPEC_HASH, TASK, job_manifest, spec_hash

log = structlog.get_logger()

USER_AGENT = "helios-jobrunner"
LIST_PAGE = 500
CONNECT_SECONDS = 3.0
DENIED_PATIENCE_SECONDS = 20.0
"""An API server that starts denies everything until it has read the roles; after this, a denial is meant."""

_config: Any = _untyped_config

_ONE = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_MANY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = None


class _Object(msgspec.Struct):
    metadata: _Meta


class _ListMeta(msgspec.Struct, rename={"next": "continue"}):
    next: str = ""


class _Objects(msgspec.Struct):
    metadata: _ListMeta
    items: list[_Object] | None = None


class Api:
    """The API server. May be used by many threads at once."""

    def __init__(self, configuration: Configuration, *, connections: int, timeout_seconds: float) -> None:
        configuration.connection_pool_maxsize = connections
        configuration.retries = False  # pyright: ignore[reportAttributeAccessIssue] -- as urllib3 takes it: repeating is ours to decide
        self.configuration = configuration
        self.host: str = configuration.host
        self.client: Any = ApiClient(configuration)
        self.timeout_seconds = timeout_seconds
        self.silence = ""
        """Of the last request, why there was no answer."""

    def request(self, method: str, path: str, *, body: object = None, accept: str = "application/json") -> Any:
        """The answer's status and body, whatever they are. Raises LauncherAway when there is no answer."""
        headers = {"Accept": accept, "User-Agent": USER_AGENT, "Content-Type": "application/json"}
        began = time.monotonic()
        try:
            token = self.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
            if token:
                headers["Authorization"] = token
            response = self.client.call_api(
                method,
                f"{self.host}{path}",
                header_params=headers,
                body=body,
                _request_timeout=(min(CONNECT_SECONDS, self.timeout_seconds), self.timeout_seconds),
            )
            answer = response.status, response.read()
        except (urllib3.exceptions.HTTPError, ApiException, ConfigException, OSError) as error:
            # What cut or silenced one connection has probably met the idle ones, too; each would cost its own wait.
            self.client.rest_client.pool_manager.clear()
            self.silence = f"the API server does not answer: {type(error).__name__}: {error}"
            API_REQUESTS.add((method, answer_class(0)))
            raise LauncherAway(self.silence) from error
        self.silence = ""
        API_REQUESTS.add((method, answer_class(answer[0])))
        API_SECONDS.observe((method,), time.monotonic() - began)
        return answer


def connect_api(settings: Settings) -> Api:
    """The API server of KUBECONFIG, or else of the cluster that this process runs in. Raises SettingInvalid."""
    configuration = Configuration()
    try:
        if file := os.environ.get("KUBECONFIG"):
            _config.load_kube_config(config_file=file, client_configuration=configuration)
        else:
            _config.load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError) as error:
        raise SettingInvalid(f"KUBECONFIG names no usable cluster, and this is no pod of one: {error}") from None
    # Beside those that create: one deletes, one sweeps, one looks at the cluster. The time is far below the lease: what
    # is being created must not be taken over meanwhile.
    return Api(configuration, connections=settings.job_create_threads + 3, timeout_seconds=settings.lease_seconds / 3)


class KubernetesLauncher:
    """Creates Jobs in the tasks' namespace; holds back while `alive` says that there are enough."""

    def __init__(self, api: Api, settings: Settings, alive: Callable[[], int]) -> None:
        self.api = api
        self.settings = settings
        self.alive = alive
        self.path = f"/apis/batch/v1/namespaces/{quote(settings.namespace, safe='')}/jobs"
        self.forms = Forms(lambda path: self.api.request("GET", path), settings)
        self.denied_since: float | None = None
        self.refusal = "the API server, which was not asked yet"
        """Why Jobs cannot even be listed."""

    def create(self, job: WantedJob) -> None:
        try:
            form = self.forms.of(job.task)
        except (OSError, JobRefused):
            if self._adopted(job):
                return
            raise
        code, body = self.api.request("POST", self.path, body=job_manifest(job, self.settings, form))
        answer = judge(code, without_token(body, job))
        if answer.verdict is not Verdict.DENIED:
            self.denied_since = None
        match answer.verdict:
            case Verdict.CREATED:
                return
            case Verdict.EXISTS:
                if not self._adopted(job):
                    raise OSError(f"the Job {job.name} existed already, and is not found any more")
            case Verdict.REFUSED:
                raise JobRefused(f"the API server refused its Job: {answer.words}")
            case Verdict.DENIED:
                self._bear_denial(answer.words)
            case Verdict.LATER:
                raise OSError(answer.words)
            case Verdict.AWAY:
                raise LauncherAway(answer.words)

    def delete(self, name: str) -> None:
        code, body = self.api.request("DELETE", f"{self.path}/{quote(name, safe='')}?propagationPolicy=Background")
        if not 200 <= code < 300 and code != 404:
            raise OSError(words_of(code, body))

    def room(self) -> int:
        return max(0, self.settings.jobs_alive - self.alive())

    def look(self) -> None:
        self._ask()
        self.forms.look()

    def trouble(self) -> str:
        return self.api.silence or self.refusal

    def _ask(self) -> None:
        """Whether Jobs can be asked for at all: what a jobrunner without work would not notice otherwise."""
        query = urlencode({"labelSelector": f"{MANAGED_BY}={HELIOS}", "limit": 1})
        try:
            code, body = self.api.request("GET", f"{self.path}?{query}", accept=_MANY)
        except LauncherAway:
            return  # `silence` has the words
        self.refusal = "" if code == 200 else f"the API server: {words_of(code, body)}"

    def jobs(self) -> list[ExistingJob]:
        found: list[ExistingJob] = []
        following = ""
        while True:
            query = {"labelSelector": f"{MANAGED_BY}={HELIOS}", "limit": LIST_PAGE, "continue": following}
            code, body = self.api.request("GET", f"{self.path}?{urlencode(query)}", accept=_MANY)
            if code != 200:
                raise OSError(words_of(code, body))
            page = decoded(body, _Objects)
            found += [job for each in page.items or () if (job := _existing(each.metadata)) is not None]
            following = page.metadata.next
            if not following:
                return found

    def _adopted(self, job: WantedJob) -> bool:
        """Take the Job that is there as this one, whatever its form, if it is of the same attempt and here to stay.

        False where there is none.
        """
        code, body = self.api.request("GET", f"{self.path}/{quote(job.name, safe='')}", accept=_ONE)
        if code == 404:
            return False
        if code != 200:
            raise OSError(f"the Job that exists already cannot be read: {words_of(code, body)}")
        found = decoded(body, _Object).metadata
        if found.annotations.get(SPEC_HASH) != spec_hash(job):
            raise JobRefused(f"a Job named {job.name} exists already in {self.settings.namespace}, and is another's")
        if found.deletion_timestamp is not None:
            raise OSError(f"a Job named {job.name} is still being deleted")
        log.info("a Job that exists already is adopted", job=job.name)
        return True

    def _bear_denial(self, words: str) -> None:
        now = time.monotonic()
        if self.denied_since is None:
            self.denied_since = now
        if now - self.denied_since < DENIED_PATIENCE_SECONDS:
            raise OSError(words)
        raise JobRefused(f"the API server refused its Job: {words}")


def without_token(body: bytes, job: WantedJob) -> bytes:
    """The API server's words, and a webhook's behind it, without the attempt's token: some quote what they were sent,
    and a task's reason is read by everybody who may read its run.
    """
    return body.replace(job.agent_env["HELIOS_TOKEN"].encode(), b"[token]")


def _existing(found: _Meta) -> ExistingJob | None:
    try:
        attempt = int(found.annotations[ATTEMPT])
        return ExistingJob(found.name, found.annotations[RUN], found.annotations[TASK], attempt)
    except (KeyError, ValueError):
        log.warning("a Job does not say which attempt it is of", job=found.name)
        return None
