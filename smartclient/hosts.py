"""The name of a host as it goes over the wire: an international name in its A-label ("bücher" → "xn--bcher-kva").

One place, since the libraries differ: httpx encodes by IDNA 2008, Python's `ssl` and `socket` by IDNA 2003, which makes
"fass" of "faß", another domain. So names are encoded here, as httpx's `URL.raw_host` does, and only A-labels go to
SNI, certificate checks, Host headers and sources; names of services are compared in this form.
"""

from __future__ import annotations

import re
from unicodedata import normalize

LONGEST_LABEL, LONGEST_NAME = 63, 253  # RFC 1035 §2.3.4
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


def is_name(host: str) -> bool:
    """Whether a resolver can be asked for it: labels of 1 to 63 letters, digits, hyphens or underscores."""
    labels = host.removesuffix(".").split(".")
    return len(host) <= LONGEST_NAME and all(
        len(label) <= LONGEST_LABEL and _LABEL.fullmatch(label) for label in labels
    )
