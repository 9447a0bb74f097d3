"""Budget, settings, Retry-After, and what can be sent again."""

from __future__ import annotations

import io
import itertools
from email.utils import formatdate
from typing import Any

import httpx
import httpx2
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from smartclient import IDEMPOTENT, Retry, RetryBudget
from smartclient.flavour import HTTPX
from smartclient.httpx2 import HTTPX2
from smartclient.retry.budget import BudgetAccount
from smartclient.retry.request_body import body_of
from smartclient.retry.retry_after import retry_after


class TestBudget:
    def test_ratio_and_floor(self) -> None:
        account = BudgetAccount(RetryBudget(ratio=0.2, min_per_second=1, ttl=10))
        for _ in range(100):
            account.deposit(5.0)
        assert sum(account.take(5.0) for _ in range(200)) == 20 + 10

    def test_deposits_and_withdrawals_expire(self) -> None:
        account = BudgetAccount(RetryBudget(ratio=1.0, min_per_second=0, ttl=10))
        for _ in range(10):
            account.deposit(0.0)
        assert account.take(9.0)
        assert not account.take(10.5)
        account.deposit(10.5)
        assert not account.take(10.5)  # the retry of second 9 was paid for by this call now
        account.deposit(19.5)
        assert account.take(19.5)
        account = BudgetAccount(RetryBudget(ratio=0.0, min_per_second=1, ttl=10))
        assert sum(account.take(0.0) for _ in range(50)) == 10
        assert sum(account.take(11.0) for _ in range(50)) == 10

    @given(st.lists(st.tuples(st.floats(0, 2), st.booleans()), max_size=200))
    def test_never_more_than_ratio_and_floor(self, steps: list[tuple[float, bool]]) -> None:
        settings = RetryBudget(ratio=0.2, min_per_second=2, ttl=5)
        account, now = BudgetAccount(settings), 1000.0
        calls: list[float] = []
        paid: list[float] = []
        for pause, retry in steps:
            now += pause
            if retry and account.take(now):
                paid.append(now)
            elif not retry:
                account.deposit(now)
                calls.append(now)
            window = [at for at in paid if at > now - 4.4]
            assert len(window) <= 0.2 * len([at for at in calls if at > now - 10]) + 2 * 5 + 1e-6


class TestSettings:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"attempts": 0},
            {"wait": 5},
            {"statuses": "503"},
            {"statuses": 503},
            {"methods": "GET"},
            {"budget": 0.2},
            {"stop": 3},
        ],
    )
    def test_mistakes_name_the_field(self, wrong: Any) -> None:
        with pytest.raises((ValueError, TypeError), match=f"Retry.{next(iter(wrong))}"):
            Retry(**wrong)

    def test_coroutine_strategies_are_refused(self) -> None:
        async def always(state: Any) -> bool:
            return True

        class Always:
            async def __call__(self, state: Any) -> bool:
                return True

        for strategy in (always, Always()):
            with pytest.raises(TypeError, match="coroutine"):
                Retry(retry=strategy)

    def test_values(self) -> None:
        assert Retry(methods=["post"]).methods == {"POST"}
        assert {"GET", "PUT"} <= IDEMPOTENT
        assert "POST" not in IDEMPOTENT
        assert isinstance(Retry(attempts=4).stops, tenacity.stop_after_attempt)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), (" 120 ", 120.0), ("0", 0.0), ("-3", None), ("1.5", None), ("soon", None), ("", None),
     (formatdate(1_000_010, usegmt=True), 10.0), (formatdate(999_000, usegmt=True), 0.0), (None, None),
     ("Fri, 31 Feb 2099 99:99:99 GMT", None)],
)  # fmt: skip
def test_retry_after(value: str | None, seconds: float | None) -> None:
    headers = {} if value is None else {"retry-after": value}
    assert retry_after(headers, wall_clock=1_000_000.0) == seconds


class _Fresh:
    def __iter__(self) -> Any:
        return iter([b"a", b"b"])


class _NoSeek(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return 0


@pytest.mark.parametrize("flavour", [HTTPX, HTTPX2], ids=["httpx", "httpx2"])
class TestReplay:
    """What httpx makes of a body is private: this pins it."""

    def request(self, flavour: Any, **body: Any) -> Any:
        httpx_ = httpx if flavour is HTTPX else httpx2
        return httpx_.Request("PUT", "http://orders/", **body)

    def body(self, flavour: Any, **body: Any) -> Any:
        return body_of(self.request(flavour, **body), flavour.ByteStream, flavour.WatchedStream)

    @pytest.mark.parametrize(
        "given", [{}, {"content": b"x"}, {"content": "x"}, {"json": {}}, {"data": {"a": "b"}}], ids=str
    )
    def test_bytes_need_no_care(self, flavour: Any, given: Any) -> None:
        assert self.body(flavour, **given) is None

    @pytest.mark.parametrize(
        ("make", "again"),
        [
            (lambda: {"content": io.BytesIO(b"0123456789")}, True),
            (lambda: {"content": [b"a", b"b"]}, True),
            (lambda: {"content": _Fresh()}, True),
            (lambda: {"files": {"f": io.BytesIO(b"0123456789")}}, True),
            (lambda: {"files": {"f": b"0123456789"}, "data": {"a": "b"}}, True),
            (lambda: {"files": {"f": _NoSeek()}}, False),
            (lambda: {"content": _NoSeek()}, False),
            (lambda: {"content": (chunk for chunk in (b"a", b"b"))}, False),
            (lambda: {"content": map(bytes, [b"a"])}, False),
            (lambda: {"content": iter([b"a", b"b"])}, False),
        ],
        ids=itertools.count(),
    )
    def test_again(self, flavour: Any, make: Any, again: bool) -> None:
        body = self.body(flavour, **make())
        assert body.repeatable  # nothing was taken
        first = b"".join(body.stream)
        assert body.begun
        assert body.repeatable is again
        if again:
            body.rewind()
            assert b"".join(body.stream) == first
            assert first

    def test_a_file_restarts_at_the_position_it_was_given_at(self, flavour: Any) -> None:
        file = io.BytesIO(b"0123456789")
        file.seek(4)
        body = self.body(flavour, content=file)
        assert b"".join(body.stream) == b"456789"
        body.rewind()
        assert b"".join(body.stream) == b"456789"

    def test_a_stream_of_ones_own_is_sent_once(self, flavour: Any) -> None:
        httpx_ = httpx if flavour is HTTPX else httpx2

        class Own(httpx_.SyncByteStream):  # type: ignore[misc,name-defined]
            def __iter__(self) -> Any:
                yield b"x"

        body = self.body(flavour, stream=Own())
        assert b"".join(body.stream) == b"x"
        assert not body.repeatable
