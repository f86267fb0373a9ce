"""Which URLs a certificate may be fetched from: a question about the text of `info` and x5u alone.

ATIS-1000074 5.3.1: https, port absent, 443 or 8443, no user information, query, fragment or path parameters. Knows
nothing of DNS and addresses: what a host name resolves to is checked by whoever connects (agent.stir.addresses).
"""

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

MAX_URL: Final = 2048
"""In characters. Those of real SHAKEN certificates have about 80; each is a key of the cache and of log lines."""

DEFAULT_PORT: Final = 443
PORTS: Final = (443, 8443)
"""Those that an x5u may name (ATIS-1000074 5.3.1)."""

# RFC 3986 3: scheme, authority without userinfo, path-abempty of pchar without ";". What an operator of DNS may call
# a host: letters, digits, "-" and "_". A non-ASCII host must come as A-labels (RFC 5890), so all of it is ASCII.
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_URL: Final = re.compile(
    rf"[Hh][Tt][Tt][Pp][Ss]://({_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]{{2,45}}\])(?::([0-9]{{1,5}}))?"
    r"((?:/(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})*)*)"
)
# What inet_aton(3), and with it getaddrinfo(3), reads as a number: "127.1", "0x7f000001". Of all these spellings only
# the dotted quad is one of a URL (RFC 3986 3.2.2 and 7.4).
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[Xx][0-9A-Fa-f]*)")
_ODD: Final = re.compile(r"[^!$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~#]")
_MAX_NAME: Final = 253  # RFC 1035 2.3.4, as text


class Location(NamedTuple):
    """Where a URL points. `host` as written, an IPv6 address without its brackets; `target` is what a GET names."""

    host: str
    port: int
    target: str


def check_url(url: str, ports: Sequence[int]) -> str:
    """ "" if a certificate may be fetched from there, else the reason why not. Never raises."""
    if len(url) > MAX_URL:
        return f"URL is longer than {MAX_URL} characters"
    match = _URL.fullmatch(url)
    if match is None:
        return _fault(url)
    host, port, _ = match.groups()
    if port is not None and int(port) not in ports:
        return f"port {int(port)} of the URL is not {_either(ports)}"
    return _host_fault(host)


def locate(url: str) -> Location:
    """The parts of a URL. Raises ValueError for one that `check_url` refuses for its form."""
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(_fault(url))
    host, port, path = match.groups()
    return Location(host.strip("[]"), DEFAULT_PORT if port is None else int(port), path or "/")


def _host_fault(host: str) -> str:
    if host[0] == "[":
        return "" if _is_address(IPv6Address, host[1:-1]) else "host of the URL is no IPv6 address"
    if len(host) > _MAX_NAME:
        return f"host name of the URL is longer than {_MAX_NAME} characters"
    if _NUMERIC.fullmatch(host) and not _is_address(IPv4Address, host):
        return "host of the URL is a number, but no IPv4 address"
    return ""


def _is_address(family: type[IPv4Address | IPv6Address], text: str) -> bool:
    try:
        family(text)
    except AddressValueError:
        return False
    return True


def _fault(url: str) -> str:
    """Why a URL has not the form. The order is that in which a person would see it."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme.lower() != "https":
        return "URL is not https"
    if _ODD.search(url):
        return "URL holds a character that must be escaped"
    for mark, what in (("#", "a fragment"), ("?", "a query")):
        if mark in rest:
            return f"URL has {what}"
    authority, _, path = rest.partition("/")
    if "@" in authority:
        return "URL has user information"
    if ";" in path:
        return "URL has path parameters"
    host, _, port = (
        authority.rpartition(":") if not authority.endswith("]") and ":" in authority else (authority, "", "0")
    )
    if not port.isdigit() or len(port) > 5:
        return "port of the URL is no number from 1 to 65535"
    if not _URL.fullmatch(f"https://{host}"):
        return "host of the URL is neither a host name nor an address"
    return "URL has a wrong escape"


def _either(ports: Sequence[int]) -> str:
    return " or ".join(map(str, ports)) or "absent"
