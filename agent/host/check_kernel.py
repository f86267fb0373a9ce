"""Checks of what the kernel must do for us: privileges of the service, netfilter, packet sockets, interfaces."""

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from agent.config import Config
from agent.host.check_files import AS_ROOT, is_root
from agent.host.finding import Finding, fault, ok, skipped, warning
from agent.host.interfaces import interfaces
from agent.host.unit import DROP_IN, drop_in, needs
from agent.kernel.capabilities import BPF, NET_ADMIN, keep_only
from agent.kernel.settings import KernelSettings

QUEUES: Final = Path("/proc/net/netfilter/nfnetlink_queue")
UNITS: Final = Path("/lib/systemd/system")


def privileges(config: Config, installed: Path = DROP_IN, units: Path = UNITS) -> Iterator[Finding]:
    """Whether the unit's drop-in is what agent.toml needs. Nothing is said where there is no such service."""
    if not (units / "sbc-edge-agent.service").exists():
        return
    wanted = drop_in(needs(config))
    try:
        found = installed.read_text()
    except FileNotFoundError:
        found = ""
    except OSError as error:
        yield skipped("privileges", f"{installed}: {error.strerror}", AS_ROOT)
        return
    if found == wanted:
        names = ", ".join(needs(config).capabilities) or "none, and none is needed"
        yield ok("privileges", f"those of the service fit agent.toml: {names}")
    else:
        yield fault(
            "privileges",
            "the service's privileges and credentials are not those that agent.toml needs",
            "sbc-agent setup --service && systemctl restart sbc-edge-agent",
        )


def netfilter(config: Config) -> Iterator[Finding]:
    """nf_tables and the queue, where agent.toml has [kernel] or [queue]."""
    if config.kernel is None and config.queue is None:
        return
    if not is_root():
        yield skipped("netfilter", "asking the kernel takes CAP_NET_ADMIN", AS_ROOT)
        return
    from agent.kernel.nft import Nft  # noqa: PLC0415  (24 MB that most hosts need not load)

    try:
        with Nft() as nft:
            yield ok("netfilter", "the kernel has nf_tables")
            if config.kernel is not None:
                yield from _programs(config.kernel)
            if config.queue is not None:
                yield from _queue(config.queue.number, nft.way_to_queue() is not None)
                if not nft.reassembles():
                    yield warning(
                        "netfilter",
                        "without nft_tproxy, fragmented INVITEs of IPv6 pass unscreened",
                        "modprobe nft_tproxy, and name it in /etc/modules-load.d",
                    )
    except OSError as error:
        yield fault("netfilter", f"no nf_tables: {error.strerror or error}", "modprobe nf_tables")


def _programs(settings: KernelSettings) -> Iterator[Finding]:
    """Whether the guard's engine is eBPF, with no more privileges than the service has: a verifier is stricter with it
    than with root. Whether it has these, `privileges` looks at."""
    if settings.engine == "nftables":
        return
    try:
        with ThreadPoolExecutor(1) as thread:  # which lets go of its privileges for good
            how = thread.submit(_probe, settings).result()
    except OSError as error:
        why = (error.strerror or str(error)).splitlines()[0]
        if settings.engine == "ebpf":
            yield fault("ebpf", f"the guard cannot start: {why}", 'set engine = "auto" in [kernel]')
        else:
            words = f"floods are dropped by nf_tables alone, at more than twice the cost: {why}"
            yield warning("ebpf", words, 'Linux 6.1, better 6.6; or set engine = "nftables" in [kernel]')
    else:
        yield ok("ebpf", f"floods are dropped where packets enter ({how})")


def _probe(settings: KernelSettings) -> str:
    from agent.kernel.fast_path import FastPath  # noqa: PLC0415

    with contextlib.suppress(OSError):  # it has less than that: the probe says so
        keep_only((BPF, NET_ADMIN))
    return FastPath().probe(settings)


def _queue(number: int, is_there: bool) -> Iterator[Finding]:
    if not is_there:
        yield fault(
            "netfilter",
            "the kernel has no way to queue packets for us",
            "modprobe nfnetlink_queue nft_queue, and name them in /etc/modules-load.d; or use [hook] or [redirect]",
        )
        return
    owner = queue_owner(number)
    if owner:
        yield ok("queue", f"queue {number} is served by a process with netlink port {owner} (the agent, if it runs)")
    else:
        yield ok("queue", f"queue {number} is free")


def queue_owner(number: int, queues: Path = QUEUES) -> int:
    """The netlink port of whoever reads this queue; 0: nobody."""
    try:
        rows = queues.read_text().splitlines()
    except OSError:
        return 0
    return next((int(row.split()[1]) for row in rows if row.split()[:1] == [str(number)]), 0)


def capture(config: Config) -> Iterator[Finding]:
    """Packet sockets and the interfaces, where agent.toml has [capture]."""
    if config.capture is None:
        return
    known = {one.name: one for one in interfaces()}
    for name in config.capture.interfaces:
        if name not in known:
            names = ", ".join(one for one in known if one != "lo") or "none"
            yield warning("capture", f"there is no interface {name} now", f"it is waited for; this host has: {names}")
        elif not known[name].up:
            yield warning("capture", f"the interface {name} is down", f"ip link set {name} up")
        else:
            yield ok("capture", f"the interface {name} is up")
    if not is_root():
        yield skipped("capture", "opening packet sockets takes CAP_NET_RAW", AS_ROOT)
        return
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as error:
        yield fault("capture", f"the kernel gives no packet sockets: {error.strerror}", "modprobe af_packet")
    else:
        yield ok("capture", "the kernel has packet sockets")
