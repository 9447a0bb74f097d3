"""What the sources that speak HTTP to a registry have in common: addresses, tokens, helpful error messages."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx

from ..support.untrusted import from_json, line, shown
from .http_client import Answer


class RegistryAnswer(RuntimeError):
    """An answer that cannot be used. hints: what a status may mean"""

    hints: ClassVar[Mapping[int, str]] = {}

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        message = _message(text)
        super().__init__(f"answered {status}: {line(message)}{self.hint(status, message)}")

    @classmethod
    def unless_good(cls, answer: Answer) -> Answer:
        """The answer. Raises itself for one other than 200."""
        if answer.status_code != 200:
            raise cls(answer.status_code, answer.text)
        return answer

    def hint(self, status: int, message: str) -> str:
        return self.hints.get(status, "")


class Relists:
    """If a watch ends soon, everything is read again. Once is allowed; repeatedly is an error."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = 0.0
        self._soon = 0

    def begins(self) -> None:
        self._began = self._clock()

    def ended(self) -> None:
        """Raises ConnectionError for the second one in a row that did not last a second."""
        self._soon = self._soon + 1 if self._clock() - self._began < 1 else 0
        if self._soon > 1:
            raise ConnectionError("the watch ends at once, again and again")


def registry_url(who: str, address: str, port: int) -> httpx.URL:
    """The URL of a registry's HTTP API, from "10.0.0.1", "10.0.0.1:8500" or "https://…". Raises ValueError."""
    written = address if "://" in address else f"http://{address}"
    try:
        url, given = httpx.URL(written), urlsplit(written).port
    except (httpx.InvalidURL, ValueError) as error:
        raise ValueError(f"{who}: {shown(address)} is not an address: {line(str(error))}") from None
    if url.scheme not in ("http", "https") or not url.host or "@" in written:
        raise ValueError(f"{who}: expected an address like '127.0.0.1:{port}' or 'https://…', got {shown(address)}")
    # httpx drops the port that is the scheme's own; an https address without one is behind some proxy's 443.
    return url if given is not None or ("://" in address and url.scheme == "https") else url.copy_with(port=port)


def tls(urls: Sequence[httpx.URL], verify: Any, cert: Any) -> ssl.SSLContext:
    """One context for all clients of a source. Each costs 30 ms and half a megabyte: none is filled for plain HTTP.

    verify: as in httpx; also a path, which httpx deprecates
    """
    if not any(url.scheme == "https" for url in urls):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if isinstance(verify, (str, os.PathLike)):
        path, isdir = str(verify), os.path.isdir(verify)
        verify = ssl.create_default_context(cafile=None if isdir else path, capath=path if isdir else None)
    context = httpx.create_ssl_context(verify=verify, trust_env=False)
    if cert is not None:
        context.load_cert_chain(*((cert,) if isinstance(cert, (str, os.PathLike)) else cert))
    return context


def checked_token(name: str, token: str | None) -> str | None:
    """A token as it goes into a header (one read from a file ends in a newline). It is never shown."""
    token = (token or "").strip()
    if not (token.isascii() and token.isprintable()):
        raise ValueError(f"{name}: expected printable ASCII (what was given is not shown here)")
    return token or None


def token_in(path: Any) -> str | None:
    """A token kept in a file."""
    with open(path, encoding="utf-8") as file:
        return checked_token(f"the token in {path}", file.read(10_000))


def weight_of(metadata: Mapping[str, str]) -> Any:
    """For registries without weights: the weight in the metadata. An invalid one is refused later."""
    try:
        return float(metadata.get("weight", 1.0))
    except ValueError:
        return metadata["weight"]


def _message(text: str) -> str:
    """Most registries say what is wrong in a JSON object."""
    try:
        said = from_json(text)
    except ValueError:
        return text
    return str(said.get("message") or said.get("error") or text) if isinstance(said, dict) else text
