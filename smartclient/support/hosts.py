"""Hosts: where a literal leads to, and a name as it goes over the wire: an international one in its A-label ("bücher" →
"xn--bcher-kva").

One place, since the libraries differ: httpx encodes by IDNA 2008, Python's `ssl` and `socket` by IDNA 2003, which makes
"fass" of "faß", another domain. So names are encoded here, as httpx's `URL.raw_host` does, and only A-labels go to
SNI, certificate checks, Host headers and sources; names of services are compared in this form.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from unicodedata import normalize

LONGEST_LABEL, LONGEST_NAME = 63, 253  # RFC 1035 §2.3.4
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
# Where clouds answer questions about a machine, beside 169.254.169.254: AWS, Google, Azure, Alibaba, Oracle.
_METADATA = frozenset(
    map(ip_address, ("fd00:ec2::254", "fd20:ce::254", "168.63.129.16", "100.100.100.200", "192.0.0.192"))
)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?")


def wire_name(host: str) -> str:
    """The name in lower case, its labels A-labels, without a trailing dot. What cannot be encoded stays as it is: no
    URL can name it (httpx: InvalidURL), and `is_name` refuses it.
    """
    host = host.lower().rstrip(".")
    if host.isascii():
        return host
    import idna  # httpx brings it along; only such names pay for it

    try:
        labels = [idna.alabel(label).decode("ascii") if label else "" for label in normalize("NFC", host).split(".")]
    except idna.IDNAError:
        return host
    return ".".join(labels)


def pattern_name(name: str) -> str:
    """A name of a service, or a glob of names, as names are compared."""
    return name.lower() if is_pattern(name) else wire_name(name)


def is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def matching_name(service: str, names: Collection[str]) -> str | None:
    """Which of some names and globs stands for a service: its own name, else the longest glob that matches."""
    if service in names:
        return service
    globs = [name for name in names if is_pattern(name) and fnmatchcase(service, name)]
    return max(globs, key=lambda name: (len(name), name), default=None)


def is_name(host: str) -> bool:
    """Whether a resolver can be asked for it: labels of 1 to 63 letters, digits, hyphens or underscores."""
    labels = host.removesuffix(".").split(".")
    return len(host) <= LONGEST_NAME and all(
        len(label) <= LONGEST_LABEL and _LABEL.fullmatch(label) for label in labels
    )


@lru_cache(1 << 16)  # long lists are read again and again
def is_link_local(host: str) -> bool:
    """Whether it is a link-local address, or one where a cloud serves a machine's secrets (169.254.169.254), in every
    spelling that can be connected to.
    """
    address = address_of(host)
    return address is not None and (address.is_link_local or address in _METADATA)


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a literal leads to, by every form that resolvers take ("0xa9fea9fe", "169.254.43518": inet_aton,
    POSIX), an IPv4 address within an IPv6 one too; None: it is a name.
    """
    literal = host.partition("%")[0].rstrip(".")
    try:
        address = ip_address(literal)
    except ValueError:
        try:
            return IPv4Address(socket.inet_aton(literal)) if literal[:1].isdigit() else None
        except (OSError, ValueError):
            return None
    if isinstance(address, IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and (address in _NAT64 or int(address) >> 32 == 0):
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    return address if inner is None or address.is_loopback else inner
