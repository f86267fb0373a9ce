"""Whose call it is: trunks by source address, longest prefix first. Knows addresses and nothing of SIP."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

# Peers are few; a scan that spoofs addresses must not grow the memory of answers. Cleared when full.
CACHE_MAX: Final = 16_384

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Trunk:
    """One ingress peer or customer connection. `default_country` is "" where bare numbers are ambiguous.

    `pass_code` and `next_hop` say how the redirect server lets its calls pass; `next_hop` goes with 302, and
    so do the call's Identity rows where it `returns_identity`.
    """

    id: str
    customer: str
    upstream: str
    default_country: str
    trust_asserted_identity: bool
    pass_code: int = 404
    next_hop: str = ""
    returns_identity: bool = False


UNKNOWN: Final = Trunk("unknown", "", "", "1", trust_asserted_identity=False)


class Networks:
    """A set of networks. IPv4-mapped IPv6 addresses count as the IPv4 address that they carry."""

    __slots__ = ("_by_length",)

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        by_length: dict[tuple[int, int], dict[int, Network]] = {}
        for network in networks:
            row = by_length.setdefault((network.prefixlen, network.version), {})
            row[int(network.network_address)] = network
        self._by_length = sorted(by_length.items(), key=lambda item: item[0], reverse=True)

    def __bool__(self) -> bool:
        return bool(self._by_length)

    def longest(self, address: str) -> Network | None:
        """The most specific network that holds the address; None for none, or for what is no address."""
        try:
            ip = ip_address(address)
        except ValueError:
            return None
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        value, bits = int(ip), ip.max_prefixlen
        for (length, version), row in self._by_length:
            if version == ip.version and (hit := row.get(value >> (bits - length) << (bits - length))):
                return hit
        return None


class AddressBook:
    """Address to trunk, and which addresses are the SBC's own. Remembers answers, within a bound."""

    __slots__ = ("_by_id", "_cache", "_customers", "_local", "_networks", "_trunks")

    def __init__(
        self, trunks: Mapping[Network, Trunk], local: Networks, customers: frozenset[str] = frozenset()
    ) -> None:
        self._trunks = dict(trunks)
        self._by_id = {trunk.id: trunk for trunk in self._trunks.values()}
        self._customers = customers
        self._networks = Networks(self._trunks)
        self._local = local
        self._cache: dict[str, Trunk | None] = {}

    @property
    def trunks(self) -> tuple[Trunk, ...]:
        """Every trunk that has an address, in the policy's order."""
        return tuple(self._by_id.values())

    def by_id(self, trunk: str) -> Trunk:
        """The trunk of this id; UNKNOWN for none."""
        return self._by_id.get(trunk, UNKNOWN)

    def sender(self, address: str) -> Trunk | None:
        """The trunk that sends from this address, UNKNOWN if nobody claims it, None if it is the SBC itself."""
        try:
            return self._cache[address]
        except KeyError:
            return self._look_up(address)

    def named(self, address: str, trunk: str, customer: str) -> Trunk | None:
        """The same where the SBC itself names the trunk or the customer; a name that no policy knows says nothing."""
        found = self._by_id.get(trunk) or self.sender(address)
        if found is None or customer not in self._customers:
            return found
        return replace(found, customer=customer)

    def _look_up(self, address: str) -> Trunk | None:
        if len(self._cache) >= CACHE_MAX:
            self._cache.clear()
        trunk: Trunk | None
        if self._local.longest(address) is not None:
            trunk = None
        else:
            network = self._networks.longest(address)
            trunk = UNKNOWN if network is None else self._trunks[network]
        self._cache[address] = trunk
        return trunk
