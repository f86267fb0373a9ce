"""Which addresses a certificate may be fetched from: none that a caller could use to reach what is not for the public.

x5u is a URL that a stranger chose. Whatever it resolves to is looked up in the registries of special-purpose addresses
(RFC 6890, kept by IANA) before a connection is made. Pure. An explicit table, since `ipaddress.is_global` answers
another question: it lets multicast, 6to4, NAT64, site-local and more pass.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

SPECIAL_IPV4: Final = (
    ("0.0.0.0/8", "this network, RFC 1122"),
    ("10.0.0.0/8", "private use, RFC 1918"),
    ("100.64.0.0/10", "shared address space, RFC 6598"),
    ("127.0.0.0/8", "loopback, RFC 1122"),
    ("169.254.0.0/16", "link local, RFC 3927"),
    ("172.16.0.0/12", "private use, RFC 1918"),
    ("192.0.0.0/24", "IETF protocol assignments, RFC 6890"),
    ("192.0.2.0/24", "documentation, RFC 5737"),
    ("192.31.196.0/24", "AS112, RFC 7535"),
    ("192.52.193.0/24", "AMT, RFC 7450"),
    ("192.88.99.0/24", "6to4 relay, RFC 7526"),
    ("192.168.0.0/16", "private use, RFC 1918"),
    ("192.175.48.0/24", "AS112, RFC 7534"),
    ("198.18.0.0/15", "benchmarking, RFC 2544"),
    ("198.51.100.0/24", "documentation, RFC 5737"),
    ("203.0.113.0/24", "documentation, RFC 5737"),
    ("224.0.0.0/4", "multicast, RFC 5771"),
    ("255.255.255.255/32", "broadcast, RFC 919"),
    ("240.0.0.0/4", "reserved, RFC 1112"),
)

SPECIAL_IPV6: Final = (
    ("::/128", "unspecified, RFC 4291"),
    ("::1/128", "loopback, RFC 4291"),
    ("::ffff:0:0/96", "IPv4-mapped, RFC 4291"),
    ("::/96", "IPv4-compatible, RFC 4291"),
    ("64:ff9b::/96", "NAT64, RFC 6052"),
    ("64:ff9b:1::/48", "local NAT64, RFC 8215"),
    ("100::/64", "discard only, RFC 6666"),
    ("100:0:0:1::/64", "dummy prefix, RFC 9780"),
    ("2001::/32", "Teredo, RFC 4380"),
    ("2001::/23", "IETF protocol assignments, RFC 2928"),
    ("2001:db8::/32", "documentation, RFC 3849"),
    ("2002::/16", "6to4, RFC 3056"),
    ("2620:4f:8000::/48", "AS112, RFC 7534"),
    ("3fff::/20", "documentation, RFC 9637"),
    ("5f00::/16", "segment routing, RFC 9602"),
    ("fc00::/7", "unique local, RFC 4193"),
    ("fe80::/10", "link local, RFC 4291"),
    ("fec0::/10", "site local, RFC 3879"),
    ("ff00::/8", "multicast, RFC 4291"),
)

_IPV4: Final = tuple((IPv4Network(text), what) for text, what in SPECIAL_IPV4)
_IPV6: Final = tuple((IPv6Network(text), what) for text, what in SPECIAL_IPV6)
_GLOBAL_IPV6: Final = IPv6Network("2000::/3")  # all that IANA gives out for unicast (RFC 3587 and RFC 4291 2.4)
# The prefixes whose last 32 bits are an IPv4 address that a translator or the kernel goes on to.
_CARRIERS: Final = tuple(map(IPv6Network, ("::ffff:0:0/96", "::/96", "64:ff9b::/96")))


def why_not(text: str, allowed: Iterable[Network] = ()) -> str:
    """ "" if a connection to this address may be made, else the reason. Never raises.

    `allowed` are networks where special-purpose addresses are taken, too: private certificate repositories and labs.
    One that carries an IPv4 address (NAT64) is judged by that as well.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return "is no address"
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "is link local, RFC 4007"
    if not any(address in network for network in allowed):
        return _special(address)
    carried = _carried(address)
    return "" if carried is None else why_not(carried, allowed)


def read_network(text: str) -> Network:
    """A network as an operator writes it: "192.0.2.0/24", "fd00::/8", or one address. Raises ValueError."""
    return ip_network(text)


def _special(address: Address) -> str:
    table: Iterable[tuple[Network, str]] = _IPV4 if address.version == 4 else _IPV6
    for network, what in table:
        if address in network:
            return f"is of {network} ({what})"
    if address.version == 6 and address not in _GLOBAL_IPV6:
        return "is not of 2000::/3 (global unicast, RFC 4291)"
    return ""


def _carried(address: Address) -> str | None:
    if isinstance(address, IPv6Address) and any(address in prefix for prefix in _CARRIERS) and int(address) > 1:
        return str(IPv4Address(int(address) & 0xFFFFFFFF))
    return None
