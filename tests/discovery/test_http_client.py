"""The reader of all HTTP sources: what registries that are broken, slow or hostile may cost."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from driving import until
from inside import balanced_of, service_of
from tls import Terminator

from smartclient import Client, Consul, Etcd, Eureka, Kubernetes, Nacos, Xds
from smartclient.discovery.http import tls
from smartclient.discovery.http_client import Answer, HttpClient
from smartclient.testing import ScriptedDiscovery

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
NO_TLS = tls([], True, None)


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request's head, and answers as it is told."""

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = connection.recv(4096)
                    if not data:
                        return
                    head += data
                answer(connection)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def asking(address: str, **options: Any) -> HttpClient:
    return HttpClient(f"http://{address}", **{"timeout": 1.0, "verify": NO_TLS, **options})


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def endless(connection: socket.socket) -> None:
    connection.sendall(CHUNKED)
    while True:
        connection.sendall(chunk(b"x" * 65_536))


@cache
def packed_nothing() -> bytes:
    """100 MB of it in 100 KB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()


def bomb(connection: socket.socket) -> None:
    body = packed_nothing()
    connection.sendall(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def dripping(connection: socket.socket) -> None:
    connection.sendall(CHUNKED)
    while True:
        connection.sendall(chunk(b" "))
        time.sleep(0.02)


def dripping_headers(connection: socket.socket) -> None:
    connection.sendall(OK)
    while True:
        connection.sendall(b"X: y\r\n")
        time.sleep(0.02)


def in_brotli(connection: socket.socket) -> None:
    connection.sendall(OK + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\nxx")


def no_gzip(connection: socket.socket) -> None:
    connection.sendall(OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx")


packed_nothing()
HOSTILE = {
    endless: "longer than 65536 bytes",
    bomb: "longer than 65536 bytes",
    dripping: "takes too long",
    dripping_headers: "takes too long",
    in_brotli: "was not asked for",
    no_gzip: "is no gzip",
}


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: answer.__name__)
def test_an_answer_is_bounded(answer: Any) -> None:
    with answering(answer) as address, asking(address, timeout=0.4, most=65_536) as one:
        began = time.monotonic()
        with pytest.raises((ValueError, httpx.HTTPError), match=HOSTILE[answer]):
            one.get("/")
        assert time.monotonic() - began < 3


def test_a_bomb_is_not_unpacked() -> None:
    with answering(bomb) as address, asking(address, most=65_536) as one:
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="longer"):
                one.get("/")
            assert tracemalloc.get_traced_memory()[1] < 8 << 20  # the server's bytes are among them
        finally:
            tracemalloc.stop()


def test_a_good_answer_comes_whole() -> None:
    said = {"n": list(range(100_000))}

    def packed(connection: socket.socket) -> None:
        body = gzip.compress(json.dumps(said).encode())
        connection.sendall(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with answering(packed) as address, asking(address) as one:
        answer = one.get("/")
        assert (answer.status_code, answer.json()) == (200, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [(b'{"port": ' + b"9" * 5000 + b"}", {"port": 10**18}), (b'{"n": -12, "x": 1.5}', {"n": -12, "x": 1.5})],
)
def test_numbers_of_strangers(text: bytes, said: Any) -> None:
    assert Answer(200, httpx.Headers(), text).json() == said


def test_deep_json_is_no_answer() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        Answer(200, httpx.Headers(), b"[" * 100_000).json()


def batches(address: str, **options: Any) -> list[list[bytes]]:
    with asking(address, **options) as one, one.lines("GET", "/", quiet=5) as answer:
        assert not isinstance(answer, Answer)
        return list(answer)


def test_lines_that_have_come_are_taken_together() -> None:
    """Also those that httpcore's parser holds (this pins its names)."""

    def three_and_one(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + chunk(b"1\n") + chunk(b"2\n\n3") + chunk(b"\n"))
        time.sleep(0.1)
        connection.sendall(chunk(b"4") + b"0\r\n\r\n")

    with answering(three_and_one) as address:
        assert batches(address) == [[b"1", b"2", b"3"], [b"4"]]


def flood(connection: socket.socket) -> None:
    connection.sendall(CHUNKED)
    while True:
        connection.sendall(chunk(b"x" * 1000 + b"\n") * 60)


def test_a_flood_of_lines_is_handed_out_in_time() -> None:
    with answering(flood) as address, asking(address) as one, one.lines("GET", "/", quiet=5) as answer:
        assert not isinstance(answer, Answer)
        for _ in range(3):
            assert sum(map(len, next(answer))) < 4 << 20


def after_its_end(connection: socket.socket) -> None:
    body = gzip.compress(b"{}") + b"x" * 1000
    connection.sendall(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def cut_short(connection: socket.socket) -> None:
    body = gzip.compress(b"{}" * 1000)[:-10]
    connection.sendall(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@pytest.mark.parametrize(("answer", "said"), [(after_its_end, "after its end"), (cut_short, "cut short")])
def test_gzip_is_whole_and_no_more(answer: Any, said: str) -> None:
    with answering(answer) as address, asking(address) as one, pytest.raises(ValueError, match=said):
        one.get("/")


def test_all_addresses_of_a_name_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    with ExitStack() as stack:
        port = 0
        for number in range(1, 9):
            listener = stack.enter_context(socket.create_server((f"127.0.0.{number}", port), backlog=0))
            port = listener.getsockname()[1]
            found.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{number}", port)))
            for _ in range(3):  # its backlog is full: it answers no more
                queued = stack.enter_context(socket.socket())
                queued.setblocking(False)
                queued.connect_ex(listener.getsockname())
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *args, **more: found if host == "many.test" else real(host, *args, **more),
        )
        began = time.monotonic()
        with pytest.raises(httpx.HTTPError), HttpClient(f"http://many.test:{port}", timeout=0.2, verify=NO_TLS) as one:
            one.get("/")
        assert time.monotonic() - began < 1.5


def long_line(connection: socket.socket) -> None:
    endless(connection)


def dripping_line(connection: socket.socket) -> None:
    connection.sendall(CHUNKED + chunk(b"1\n"))
    while True:
        connection.sendall(chunk(b"x"))
        time.sleep(0.02)


@pytest.mark.parametrize(("answer", "said"), [(long_line, "line is longer"), (dripping_line, "takes too long")])
def test_a_line_is_bounded(answer: Any, said: str) -> None:
    with answering(answer) as address, pytest.raises((ValueError, httpx.ReadTimeout), match=said):
        batches(address, timeout=0.4, most=65_536)


def test_silence_between_lines_is_bounded() -> None:
    def silent(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + chunk(b"1\n"))
        connection.recv(1)

    with answering(silent) as address, asking(address) as one, one.lines("GET", "/", quiet=0.1) as answer:
        assert not isinstance(answer, Answer)
        assert next(answer) == [b"1"]
        with pytest.raises(httpx.ReadTimeout):
            next(answer)


def test_a_refusal_in_place_of_lines_is_cut() -> None:
    def refusing(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 500 no\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(chunk(b"x" * 65_536))

    with answering(refusing) as address, asking(address) as one, one.lines("GET", "/", quiet=5) as answer:
        assert isinstance(answer, Answer)
        assert answer.status_code == 500
        assert len(answer.content) <= 1 << 17


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("streams", [False, True], ids=["answer", "lines"])
def test_another_thread_ends_the_wait(secure: bool, streams: bool, tmp_path: Path) -> None:
    asked = threading.Event()

    def silent(connection: socket.socket) -> None:
        if streams:
            connection.sendall(CHUNKED)
        asked.set()
        connection.recv(1)

    with answering(silent) as address, Terminator(tmp_path, address) as terminator:
        url = f"https://{terminator.address}" if secure else f"http://{address}"
        with HttpClient(url, timeout=5, verify=terminator.context) as one:
            errors: list[Exception] = []

            def wait() -> None:
                try:
                    if streams:
                        with one.lines("GET", "/", quiet=60) as answer:
                            list(answer)  # type: ignore[arg-type]
                    else:
                        one.ask("GET", "/", wait=60)
                except httpx.HTTPError as error:
                    errors.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            assert asked.wait(5)
            time.sleep(0.05)
            one.cut()
            thread.join(2)
            assert not thread.is_alive()
            assert errors
            with pytest.raises(httpx.HTTPError):  # nor does it begin another
                one.get("/")


def test_no_descriptor_is_left() -> None:
    def fine(connection: socket.socket) -> None:
        connection.sendall(OK + b"Content-Length: 0\r\n\r\n")

    with answering(fine) as address:
        before = descriptors()
        for _ in range(5):
            with asking(address) as one:
                one.get("/")
            with pytest.raises(httpx.ConnectTimeout):  # no TLS there
                with HttpClient(f"https://{address}", timeout=0.1, verify=ssl.create_default_context()) as one:
                    one.get("/")
        until(lambda: descriptors() <= before + 1)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


BOUNDED = {"timeout": 0.4, "most_bytes": 65_536}
SOURCES: dict[str, Callable[[str, Path], Any]] = {
    "consul": lambda address, home: Consul(address, **BOUNDED),
    "etcd": lambda address, home: Etcd(address, **BOUNDED),
    "eureka": lambda address, home: Eureka(f"{address}/eureka", **BOUNDED),
    "nacos": lambda address, home: Nacos(address, **BOUNDED),
    "kubernetes": lambda address, home: Kubernetes(f"http://{address}", **BOUNDED),
    "xds by REST": lambda address, home: Xds(address, rest=True, **BOUNDED),
}


@pytest.mark.parametrize("answer", [endless, bomb, dripping, dripping_headers], ids=lambda answer: answer.__name__)
@pytest.mark.parametrize("source", SOURCES)
def test_no_source_takes_more_than_it_should(source: str, answer: Any, tmp_path: Path) -> None:
    with answering(answer) as address:
        began = time.monotonic()
        with pytest.raises(Exception, match=HOSTILE[answer]):
            next(iter(SOURCES[source](address, tmp_path).watch("orders", threading.Event())))
        assert time.monotonic() - began < 5


def test_a_watch_that_fails_after_its_list_backs_off(caplog: pytest.LogCaptureFixture) -> None:
    """Kubernetes: list is allowed, and watch is not. Said once; and again once a watch has lasted."""

    class Forbidden(ScriptedDiscovery):
        lists = 0

        def watch(self, service: str, stop: threading.Event) -> Iterator[Any]:
            Forbidden.lists += 1
            yield ["10.0.0.1:80"]
            raise ConnectionError("answered 403: watch is forbidden")

    with Client(Forbidden()) as client:
        balanced: Any = balanced_of(client)
        service_of(balanced)
        time.sleep(1.5)
        assert 3 <= Forbidden.lists <= 7  # 0.1, 0.2, 0.4, 0.8 s, each less some jitter
    assert caplog.text.count("is forbidden") == 1
    assert "answers again" not in caplog.text


def test_requests_to_registries_are_out_of_sight(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No spans, no cassettes, no lines of httpx: tools that patch httpx do not see them."""

    def patched(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        raise AssertionError("seen")

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", patched)
    with answering(lambda one: one.sendall(OK + b"Content-Length: 2\r\n\r\n{}")) as address:
        with caplog.at_level("INFO", "httpx"), asking(address) as client:
            assert client.get("/v1/things").json() == {}
            assert not caplog.records
            with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as another:
                another.get("http://elsewhere/")
            assert len(caplog.records) == 1
