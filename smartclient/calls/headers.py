"""AttemptHeaders: the headers that an attempt has beside its request's own."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from ..events import Headers
from ..inherited import as_header
from ..policy import Policy
from ..services.attempt import Attempt
from ..services.call import Call
from .context import SendContext

IDEMPOTENCY_KEY = "Idempotency-Key"  # draft-ietf-httpapi-idempotency-key-header
KEYED = frozenset({"POST", "PATCH"})


class AttemptHeaders:
    """The headers that we add to one call's attempts.

    key: the header of the idempotency key, and its value; "": the user has set one
    """

    __slots__ = ("_policy", "_retried", "key")

    def __init__(self, policy: Policy, retried: bool, key: tuple[str, str] | None) -> None:
        self._policy = policy
        self._retried = retried
        self.key: tuple[str, str] | None = key

    def of(self, attempt: Attempt, context: SendContext, now: float) -> Headers:
        policy, headers = self._policy, []
        if policy.deadline_header is not None and context.ends_at is not None:
            left = as_header(policy.deadline_header, context.ends_at - now)
            headers.append((policy.deadline_header.encode(), left))
        if policy.attempt_header is not None:
            # Work that is itself a retry says so in its first attempts, too.
            headers.append((policy.attempt_header.encode(), b"%d" % (attempt.number + self._retried)))
        if self.key is not None and self.key[1]:
            name, value = self.key
            headers.append((name.encode(), value.encode("latin-1")))
        return tuple(headers)


def headers_of(request: Any, call: Call, policy: Policy, context: SendContext) -> AttemptHeaders | None:
    """None: an attempt has none of its own."""
    key = _key_of(request, policy, context) if policy.idempotency_key and request.method in KEYED else None
    if key is None and policy.deadline_header is None and policy.attempt_header is None:
        return None
    return AttemptHeaders(policy, call.retried, key)


def _key_of(request: Any, policy: Policy, context: SendContext) -> tuple[str, str]:
    """The same for all attempts and hops of a `client.send`; the user's own, if there is one. A hop has the same body:
    an auth flow's own extra request is not a hop and gets another key.
    """
    name = policy.idempotency_key if isinstance(policy.idempotency_key, str) else IDEMPOTENCY_KEY
    if context.key is None or context.key[0] is not request.stream:
        context.key = request.stream, str(uuid4())
    # The user's own goes out as it stands.
    return name, "" if name in request.headers else context.key[1]
