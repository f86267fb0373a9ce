"""Settings of what the kernel does for us, as the section [kernel] of agent.toml holds them. Open nothing."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Final, Literal

from agent.model import ConfigError
from agent.settings import Range

Network = IPv4Network | IPv6Network

PORTS_MAX: Final = 64
"""SIP ports of one SBC. Two are usual."""

NUMBER_MAX: Final = 12
"""Digits of an emergency number: what stands with its scheme in one comparison of nf_tables."""


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """[kernel]: floods and blocked sources are cut off in the kernel, before the SBC's sockets. Only INVITE requests by
    UDP to `ports` are ever looked at: what belongs to calls in progress (responses, ACK, BYE) goes on, and so do TCP
    and TLS.

    mode: "enforce" drops, "shadow" counts the same and drops nothing.
    engine: "auto": a program of eBPF stands in front of the table of nf_tables where this kernel and the agent's
    capabilities allow one; it drops the same for a fraction of the time. "ebpf": the agent's guard does not start
    without it. "nftables": the table alone.
    on_death: "pass": when the agent ends, however, the kernel forgets everything that it was told. "hold": limits stay
    until `sbc-agent kernel remove`, blocks until their time is up.
    flood_rate, flood_burst: INVITEs a second, copies and re-INVITEs included, that one source (an address, or a /64 of
    IPv6) may send before the excess is dropped in silence. 0: no limit. The kernel cannot read SIP, so set it well
    above what any good source sends: an emergency call in a form that the kernel does not know, beyond the limit, is
    lost until it is sent again.
    exempt: sources that are never limited nor blocked here, such as public-safety answering points and selective
    routers.
    emergency_numbers: Request-URIs with these numbers in plain form pass, from blocked and flooding sources too.
    """

    ports: tuple[Annotated[int, Range(1, 65_535)], ...] = (5060,)
    mode: Literal["enforce", "shadow"] = "enforce"
    engine: Literal["auto", "nftables", "ebpf"] = "auto"
    on_death: Literal["pass", "hold"] = "pass"
    flood_rate: Annotated[int, Range(0, 1_000_000)] = 0
    flood_burst: Annotated[int, Range(0, 1_000_000)] = 0
    exempt: tuple[str, ...] = ()
    emergency_numbers: tuple[str, ...] = ("911", "933", "112")
    # Sources whose rate is remembered: 65,536 take about 16 MB of the kernel. Those beyond pass.
    max_sources: Annotated[int, Range(16, 1 << 20)] = 1 << 16
    # Blocks at one time, of each family, addresses and prefixes counted apart.
    max_blocks: Annotated[int, Range(16, 1 << 20)] = 1 << 14

    def __post_init__(self) -> None:
        if not self.ports:
            raise ConfigError("ports", "there is none to guard")
        if len(self.ports) > PORTS_MAX:
            raise ConfigError("ports", f"are more than {PORTS_MAX}")
        if self.flood_burst and not self.flood_rate:
            raise ConfigError("flood_burst", "is for a flood_rate, which is not given")
        for n, number in enumerate(self.emergency_numbers):
            if not number.isdecimal() or not number.isascii() or len(number) > NUMBER_MAX:
                raise ConfigError(f"emergency_numbers[{n}]", f'"{number}" is not 1 to {NUMBER_MAX} digits')
        for n, source in enumerate(self.exempt):
            network(source, f"exempt[{n}]")

    @property
    def exempt_networks(self) -> tuple[Network, ...]:
        """`exempt`, read."""
        return tuple(network(source, "exempt") for source in self.exempt)


def network(text: str, field: str) -> Network:
    """An address or a prefix. Raises ConfigError naming `field`."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigError(field, str(error)) from None
