"""What the service needs beyond nothing for an agent.toml, as a drop-in of its unit (systemd.unit(5)).

The unit that is installed has no privilege. Each section of agent.toml that needs one is named here, once; `sbc-agent
setup --service` writes the drop-in, `sbc-agent doctor` compares.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Final

from agent.config import Config
from agent.kernel.capabilities import BPF, NET_ADMIN, NET_RAW

UNIT: Final = "sbc-edge-agent.service"
DROP_IN: Final = Path("/etc/systemd/system") / f"{UNIT}.d" / "50-sbc-agent-setup.conf"
KEYS: Final = Path("/etc/sbc-edge-agent/keys")
CREDENTIALS: Final = Path("/run/credentials") / UNIT
"""Where systemd puts what LoadCredential= names; paths of agent.toml below it are keys that only root can read."""

HEADING: Final = "# Made by `sbc-agent setup --service` from agent.toml; changes in here are lost.\n"

NEEDS: Final = {
    "capture": ((NET_RAW,), ("AF_PACKET", "AF_NETLINK")),
    "kernel": ((NET_ADMIN,), ("AF_NETLINK",)),
    "queue": ((NET_ADMIN, NET_RAW), ("AF_NETLINK",)),
}
"""Sections of agent.toml to capabilities and families of sockets: packet sockets and rtnetlink to capture, nf_tables
and nfnetlink_queue to guard and to queue, raw sockets to answer from the SBC's own address. The guard's program of eBPF
(`engine`) takes a capability and a system call more."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Each in a fixed order, so that the same configuration gives the same text."""

    capabilities: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    system_calls: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()


def needs(config: Config) -> Needs:
    """What this configuration takes."""
    sections = [name for name in NEEDS if getattr(config, name) is not None]
    programs = config.kernel is not None and config.kernel.engine != "nftables"
    capabilities = {one for name in sections for one in NEEDS[name][0]} | ({BPF} if programs else set())
    return Needs(
        tuple(sorted(capabilities)),
        tuple(sorted({one for name in sections for one in NEEDS[name][1]})),
        ("bpf",) if programs else (),
        tuple(sorted(set(_credentials(config)))),
    )


def drop_in(what: Needs) -> str:
    """The text of the drop-in; "" if none is needed."""
    lines = []
    if what.capabilities:
        names = " ".join(what.capabilities)
        lines += [f"CapabilityBoundingSet={names}", f"AmbientCapabilities={names}"]
    if what.families:
        lines.append(f"RestrictAddressFamilies={' '.join(what.families)}")
    if what.system_calls:
        lines.append(f"SystemCallFilter={' '.join(what.system_calls)}")
    lines += [f"LoadCredential={name}:{KEYS / name}" for name in what.credentials]
    return HEADING + "[Service]\n" + "".join(f"{line}\n" for line in lines) if lines else ""


def _credentials(config: Config) -> Iterator[str]:
    """Names of credentials in any section: `credential = "NAME"`, or a path where systemd puts them."""
    for section in (getattr(config, one.name) for one in fields(config)):
        if not is_dataclass(section):
            continue
        for one in fields(section):
            value = getattr(section, one.name)
            if one.name == "credential" and value:
                yield str(value)
            elif isinstance(value, Path) and value.parent == CREDENTIALS:
                yield value.name
