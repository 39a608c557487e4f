"""The requests by which bytes go into the store: one PUT, one part of several, and the completion of those."""

from collections.abc import Callable, Iterable, Mapping

from agent.endpoint import Parts
from agent.pace import Backoff
from agent.web import Response, Web, WebError

TRIES = 8

Body = Callable[[], Iterable[memoryview | bytes]]
"""Gives the whole body, once for each try."""


class PutRefused(Exception):
    """The store does not take it; the message says why, without the output's name."""


class Expired(Exception):
    """403: the URL is too old, or was never good."""


class TryAgain(Exception):
    """An answer that another try may improve."""


def put_once(web: Web, url: str, headers: Mapping[str, str], length: int, body: Iterable[memoryview | bytes]) -> str:
    """Returns the ETag, empty if there is none. Raises PutRefused, Expired, TryAgain, WebError, or what reading the
    body raises.
    """
    with web.upload("PUT", url, headers, length, body) as response:
        _accept(response)
        response.read(4096)
        return response.header("ETag") or ""


def put_part(web: Web, parts: Parts, number: int, length: int, body: Body) -> str:
    """Stores part `number`, counted from 0, and returns its ETag. Raises PutRefused or Expired."""
    backoff = Backoff(0.1, 5.0)
    trouble = ""
    for _ in range(TRIES):
        try:
            etag = put_once(web, parts.urls[number], {}, length, body())
            if not etag:
                raise PutRefused("the store gave a part no ETag")
            return etag
        except (WebError, TryAgain) as error:
            trouble = str(error)
        backoff.pause()
    raise PutRefused(f"part {number + 1} given up after {TRIES} tries: {trouble}")


def complete(web: Web, parts: Parts, etags: list[str]) -> None:
    """Makes an object of the parts that were stored, the first ones of `parts`. Raises PutRefused or Expired."""
    body = _complete_document(etags)
    backoff = Backoff(0.2, 5.0)
    trouble = ""
    for attempt in range(TRIES):
        try:
            with web.request("POST", parts.complete_url, {"Content-Type": "application/xml"}, body) as response:
                answer = response.read(65536)
                if attempt > 0 and response.status == 404:
                    # An earlier try has completed the upload and its answer was lost: the upload no longer exists,
                    # the object does.
                    return
                _accept(response)
            # S3 says 200 before it knows the outcome; only the body tells.
            if b"<Error>" not in answer:
                return
            trouble = _code(answer) or "an error in the answer"
        except (WebError, TryAgain) as error:
            trouble = str(error)
        backoff.pause()
    raise PutRefused(f"the upload's completion given up after {TRIES} tries: {trouble}")


def _accept(response: Response) -> None:
    if response.status in (200, 201, 204):
        return
    body = response.read(4096)
    words = f"HTTP {response.status} {_code(body)}".strip()
    if response.status == 403:
        raise Expired(words)
    if response.status in (408, 429) or response.status >= 500 or _code(body) == "RequestTimeout":
        raise TryAgain(words)
    raise PutRefused(f"the store refuses it: {words}")


def _code(body: bytes) -> str:
    """S3's error code; the rest of an error's body may repeat the URL and is not used."""
    code = body.partition(b"<Code>")[2].partition(b"</Code>")[0].decode("ascii", "replace")
    return code if code.isalnum() else ""


def _complete_document(etags: list[str]) -> bytes:
    from html import escape as escape_xml

    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape_xml(etag)}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
