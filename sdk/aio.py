"""The same client for asyncio: every call that waits for a server does so in a thread, and a wait ends within a quarter
of a second of being cancelled. docs/sdk.md says why it is not a client of its own.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from helios.dag_format import Priority
from sdk.building import Dag, Scalar
from sdk.client import ACCEPT_SECONDS, LATEST, Client, Run, Step, checked
from sdk.records import Artifact, RunInfo, TaskUpdate


class AsyncClient:
    """`async with AsyncClient() as client:`. Arguments, results and errors are those of Client."""

    def __init__(self, redis_url: str | None = None, **settings: str) -> None:
        self._arguments: tuple[str | None, dict[str, str]] = redis_url, settings
        self._client: Client | None = None

    async def __aenter__(self) -> "AsyncClient":
        redis_url, settings = self._arguments
        self._client = await asyncio.to_thread(Client, redis_url, **settings)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._open.close)
        self._client = None

    @property
    def _open(self) -> Client:
        if self._client is None:
            raise RuntimeError("the client is not open: use it in `async with AsyncClient() as client:`")
        return self._client

    async def submit(
        self,
        dag: Dag | str | bytes | Path,
        *,
        use_cache: bool | None = None,
        memoize: bool | None = None,
        priority: Priority | None = None,
        params: Mapping[str, Scalar] | None = None,
        request_id: str | None = None,
        accept_seconds: float = ACCEPT_SECONDS,
    ) -> "AsyncRun":
        fields: dict[str, Any] = {
            "use_cache": use_cache,
            "memoize": memoize,
            "priority": priority,
            "params": params,
            "request_id": request_id,
            "accept_seconds": accept_seconds,
        }
        return AsyncRun(await asyncio.to_thread(self._open.submit, dag, **fields))

    async def run(self, run: str = LATEST) -> "AsyncRun":
        return AsyncRun(await asyncio.to_thread(self._open.run, run))

    async def runs(self, dag_name: str | None = None, *, limit: int = 20) -> list[RunInfo]:
        return await asyncio.to_thread(self._open.runs, dag_name, limit=limit)

    async def put(self, file: Path | str, uri: str) -> str:
        return await asyncio.to_thread(self._open.put, file, uri)


class AsyncRun:
    """One run, as Run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.id = run.id

    async def info(self) -> RunInfo:
        return await asyncio.to_thread(self._run.info)

    async def follow(self, *, timeout: float | None = None) -> AsyncIterator[TaskUpdate]:
        from cli.follow import Follower
        from sdk.session import task_update

        def opened() -> Follower:
            with self._run.session.speaking() as link:
                return Follower(link, self.id)

        def read(follower: Follower) -> list[TaskUpdate]:
            with self._run.session.speaking():
                return [task_update(each) for each in follower.read()]

        deadline = None if timeout is None else time.monotonic() + timeout
        follower = await asyncio.to_thread(opened)
        while True:
            for each in await asyncio.to_thread(read, follower):
                yield each
            if follower.ended:
                return
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"run {self.id} goes on after {timeout:g} s")

    async def wait(self, *, timeout: float | None = None, check: bool = False) -> RunInfo:
        async for _ in self.follow(timeout=timeout):
            pass
        return checked(await self.info(), check=check)

    async def cancel(self, *, on_exit: bool = False) -> None:
        await asyncio.to_thread(self._run.cancel, on_exit=on_exit)

    async def logs(self, task: str, *, attempt: int | None = None, step: Step = "task") -> list[str]:
        return await asyncio.to_thread(self._run.logs, task, attempt=attempt, step=step)

    async def artifacts(self, task: str | None = None, name: str | None = None) -> list[Artifact]:
        return await asyncio.to_thread(self._run.artifacts, task, name)

    async def fetch(
        self, to: Path | str, task: str | None = None, name: str | None = None, *, force: bool = False
    ) -> list[Path]:
        return await asyncio.to_thread(self._run.fetch, to, task, name, force=force)

    def __repr__(self) -> str:
        return f"<AsyncRun {self.id}>"
