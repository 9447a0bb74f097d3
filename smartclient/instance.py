"""Instance: what discovery says of one address, and how an address is written.

An instance is a value: frozen, hashable, picklable. What a client *learns* of it lives in its `Node`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NoReturn

from .support.checks import nearest
from .support.hosts import is_name, wire_name
from .support.untrusted import shown, whole_number

MOST_WEIGHT, MOST_PRIORITY = 1e15, 1 << 31
_SCOPE = re.compile(r"[A-Za-z0-9_.-]*")


class Metadata(dict[str, str]):
    """A read-only dict: unlike a mapping proxy it can be pickled, copied and given to `dataclasses.asdict`."""

    def _refuse(self, *args: Any, **keywords: Any) -> NoReturn:
        raise TypeError("the metadata of an instance is read-only")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> Any:
        return Metadata, (dict(self),)


@dataclass(frozen=True)
class Instance:
    """One address of a service.

    host:      a name or an IP literal (IPv6 without brackets); an international name is kept in its A-labels
    port:      1 to 65535; None: the port of the request's URL, as with DNS
    scheme:    "http" or "https". TLS is used when the instance or the URL says https
    weight:    share of traffic relative to its peers, any number from 0 to 10¹⁵; 0 takes none while others can
    zone:      where it runs ("eu-1a"), if known
    priority:  0 is used first
    metadata:  anything the registry says of it ({"version": "v2"}); copied and read-only
    id:        the registry's own name for it
    healthy:   false: the registry lists it as down. It gets calls only in panic, but counts as an instance of its
               priority (Envoy: EDS health status)

    Raises ValueError or TypeError for what cannot be an address.
    """

    host: str
    port: int | None = None
    _: KW_ONLY
    scheme: str = "http"
    weight: float = 1.0
    zone: str | None = None
    priority: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    id: str | None = None
    healthy: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.host, str) and not self.host.isascii():
            object.__setattr__(self, "host", wire_name(self.host))
        check_host(self.host)
        port, weight, priority = self.port, self.weight, self.priority
        if port is not None and (not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535):
            raise self._wrong("port", "1 to 65535 or None", ValueError)
        if self.scheme not in ("http", "https"):
            raise self._wrong("scheme", "'http' or 'https'", ValueError)
        if not isinstance(weight, (int, float)) or isinstance(weight, bool):
            raise self._wrong("weight", "a number from 0 to 1e15", TypeError)
        if not 0 <= weight <= MOST_WEIGHT:  # NaN neither
            raise self._wrong("weight", "a number from 0 to 1e15", ValueError)
        for name in ("zone", "id"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise self._wrong(name, "a string or None", TypeError)
        if not isinstance(priority, int) or isinstance(priority, bool):
            raise self._wrong("priority", "a whole number from 0 up", TypeError)
        if not 0 <= priority <= MOST_PRIORITY:
            raise self._wrong("priority", "a whole number from 0 up", ValueError)
        if not isinstance(self.healthy, bool):
            raise self._wrong("healthy", "True or False", TypeError)
        if not isinstance(self.metadata, Mapping):
            raise self._wrong("metadata", "a mapping of strings", TypeError)
        for key, value in self.metadata.items():
            if not (isinstance(key, str) and isinstance(value, str)):
                raise self._wrong("metadata", "a mapping of strings", TypeError)
        object.__setattr__(self, "metadata", Metadata(self.metadata))

    def _wrong(self, name: str, expected: str, error: type[Exception]) -> Exception:
        return error(f"Instance.{name}: expected {expected}, got {shown(getattr(self, name))} (host {self.host})")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "https://" if self.scheme == "https" else ""
        return f"{scheme}{host}" if self.port is None else f"{scheme}{host}:{self.port}"

    @classmethod
    def parse(cls, address: Instance | str | Mapping[str, Any]) -> Instance:
        """Read "10.0.0.1:8080", "http://10.0.0.1", "https://a.example:8443" or "[::1]:80", or a mapping of an
        instance's fields ({"host": …, "port": …}, or {"address": "10.0.0.1:8080", …}).

        An Instance is returned as it is.
        """
        if isinstance(address, Instance):
            return address
        if isinstance(address, Mapping):
            return _of_fields(cls, address)
        if not isinstance(address, str):
            raise TypeError(f"address: expected a string like '10.0.0.1:8080' or an Instance, got {shown(address)}")
        scheme, separator, rest = address.strip().rpartition("://")
        if not separator:
            scheme = "http"
        elif rest.startswith("["):
            rest = re.sub("%25(?=[^]])", "%", rest, count=1)  # of a zone, in a URL (RFC 6874)
        host, port = _split_port(rest.rstrip("/"), address)
        return cls(host=host, port=port, scheme=scheme.lower())


def _of_fields(cls: type[Instance], given: Mapping[str, Any]) -> Instance:
    fields = {str(name): value for name, value in given.items() if value is not None}
    if "address" in fields:
        parsed = cls.parse(fields.pop("address"))
        fields = {"host": parsed.host, "port": parsed.port, "scheme": parsed.scheme, **fields}
    unknown = sorted(fields.keys() - cls.__dataclass_fields__.keys())
    if unknown:
        hint = nearest(unknown[0], ("address", *cls.__dataclass_fields__))
        raise ValueError(f"address: unknown fields {shown(unknown)}{hint} (host {shown(fields.get('host'))})")
    if "host" not in fields:
        raise ValueError(f"address: no host in {shown(dict(given))}")
    metadata = fields.get("metadata")
    if isinstance(metadata, Mapping):
        fields["metadata"] = {str(key): str(value) for key, value in metadata.items()}
    return cls(**fields)


def _split_port(text: str, address: str) -> tuple[str, int | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"address: {shown(address)} is not of the form '[::1]:80'")
        port = rest[1:]
    elif text.count(":") > 1:
        host, port = text, ""  # a bare IPv6 literal
    else:
        host, _, port = text.partition(":")
    if not port:
        return host, None
    number = whole_number(port)
    if number is None or port[0] in "+-":
        raise ValueError(f"address: {shown(address)} has no number after its colon")
    return host, number


def check_host(host: object) -> None:
    """Raise unless `host` is a name or IP literal that can be connected to and may stand in a request (no CRLF, space
    or slash, no empty label).
    """
    if not isinstance(host, str):
        raise TypeError(f"Instance.host: expected a string, got {shown(host)}")
    if not (is_name(host) or (is_ip(host) and _SCOPE.fullmatch(host.partition("%")[2]))):
        raise ValueError(f"Instance.host: expected a name or an IP address, got {shown(host)}")


def is_ip(host: str) -> bool:
    """Whether `host` is an IP literal (IPv6 without brackets, a scope id allowed)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def compressed(host: str) -> str:
    """The canonical spelling of an IPv6 literal."""
    try:
        return ipaddress.ip_address(host).compressed
    except ValueError:
        return host


def parse_all(addresses: Iterable[Instance | str], what: str) -> tuple[Instance, ...]:
    """Parse a list of addresses; `what` names it in errors. A bare string is refused: it must be a list."""
    if isinstance(addresses, (str, bytes, Instance)) or not isinstance(addresses, Iterable):
        raise TypeError(f"{what}: expected a list of addresses, got {shown(addresses)}")
    return tuple(Instance.parse(address) for address in addresses)
