"""Checks of the machine itself: its clock, its disk, its ports and buffers, its memory."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.config import Config
from agent.host.clock import synchronised
from agent.host.finding import Finding, fault, ok, skipped, warning
from agent.host.listeners import can_bind, holder
from agent.settings import host_and_port

ERROR_MAX: Final = 5.0
"""Seconds that the clock may be wrong: a twelfth of the 60 s for which a PASSporT is fresh (RFC 8224 12.1 item 2)."""

MEMORY: Final = 512 << 20
"""MemoryMax of the unit."""

FREE_INODES: Final = 1000
"""Files of records, certificates and lists are some hundred."""


def clock(config: Config) -> Iterator[Finding]:
    """Identity needs a right clock; records should have one."""
    try:
        keeps, error = synchronised()
    except OSError as problem:
        yield skipped("clock", f"the kernel does not tell: {problem.strerror}", "look with: timedatectl")
        return
    if keeps and error <= ERROR_MAX:
        yield ok("clock", f"synchronised, wrong by {error:.3f} s at most")
        return
    why = "nothing keeps the clock right" if not keeps else f"the clock may be wrong by {error:.1f} s"
    if config.identity is None and config.signing is None:
        yield warning("clock", f"{why}: times in records may be wrong", "install chrony, or enable systemd-timesyncd")
    else:
        yield fault(
            "clock",
            f"{why}: PASSporTs are judged, and ours are made, by it",
            "install chrony, or enable systemd-timesyncd",
        )


def disk(config: Config) -> Iterator[Finding]:
    """Room for records."""
    if config.records is None:
        yield warning("disk", "agent.toml has no [records]: nothing is kept of any call", "add [records]")
        return
    wanted = config.records.directory
    there = next(place for place in [wanted, *wanted.parents] if place.exists())
    try:
        room = os.statvfs(there)
    except OSError as error:
        yield fault("disk", f"{there}: {error.strerror}", "mend the file system: calls pass, records are lost")
        return
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    ratio = free / total if total else 0.0
    if room.f_flag & os.ST_RDONLY:
        yield fault("disk", f"{there} is mounted read-only", f"mount -o remount,rw {there}")
    elif ratio < config.records.min_free_ratio:
        yield fault(
            "disk",
            f"{ratio:.1%} of the disk of {wanted} is free, and records keep {config.records.min_free_ratio:.0%} free",
            "make room, or lower records.min_free_ratio",
        )
    elif free - config.records.min_free_ratio * total < config.records.max_bytes:
        yield warning(
            "disk",
            f"{free >> 20} MiB are free for {config.records.max_bytes >> 20} MiB of records: the oldest go earlier",
            "lower records.max_bytes, or make room",
        )
    else:
        yield ok("disk", f"{free >> 20} MiB are free for {config.records.max_bytes >> 20} MiB of records")
    if room.f_files and room.f_favail < FREE_INODES:
        yield fault("disk", f"only {room.f_favail} more files fit on the disk of {wanted}", "remove files")


def ports(config: Config, *, runs: bool) -> Iterator[Finding]:
    """Whether each address of agent.toml can be listened on; not asked while the agent itself does (`runs`)."""
    if runs:
        return
    for field, transport, host, port in addresses(config):
        error = can_bind(transport, host, port)
        where = f"{transport} {host}:{port}"
        if error is None:
            yield ok(field, f"{where} is free")
        elif error.errno == errno.EADDRINUSE:
            by = holder(transport, host, port) or "another program"
            yield fault(field, f"{where} is taken by {by}", "choose another port, or stop that program")
        elif error.errno == errno.EADDRNOTAVAIL:
            yield fault(field, f"this host has no address {host}", "see `ip address`")
        elif error.errno == errno.EACCES:
            yield fault(field, f"{where}: ports below 1024 are for root", "choose a port from 1024 on")
        else:
            yield fault(field, f"{where}: {error.strerror}", "choose another address")


def addresses(config: Config) -> Iterator[tuple[str, str, str, int]]:
    """Every (field, "udp" or "tcp", address, port) on which this configuration listens."""
    if config.redirect is not None:
        for field in ("udp", "tcp", "tls"):
            for one in getattr(config.redirect, field):
                yield f"redirect.{field}", "udp" if field == "udp" else "tcp", one.host, one.port
    singles = {
        "hook.listen": config.hook.listen if config.hook else "",
        "stir_api.listen": config.stir_api.listen if config.stir_api else "",
        "metrics.listen": config.metrics.listen,
    }
    for field, listen in singles.items():
        if listen:
            yield field, "tcp", *host_and_port(listen, field)


def buffers(config: Config, setting: Path = Path("/proc/sys/net/core/rmem_max")) -> Iterator[Finding]:
    """Whether a burst of datagrams finds the room that was asked for."""
    if config.redirect is None or not config.redirect.udp:
        return
    try:
        most = int(setting.read_text())
    except (OSError, ValueError):
        return
    wanted = config.redirect.receive_buffer
    if most < wanted:
        yield warning(
            "redirect.receive_buffer",
            f"the kernel allows {most} bytes of {wanted}: bursts are lost earlier, and come again after 0.5 s",
            f"echo net.core.rmem_max={wanted} > /etc/sysctl.d/60-sbc-edge-agent.conf && sysctl --system",
        )
    else:
        yield ok("redirect.receive_buffer", f"the kernel allows {wanted} bytes")


def memory(information: Path = Path("/proc/meminfo")) -> Iterator[Finding]:
    """Whether the agent's bound leaves the SBC its own."""
    try:
        rows = dict(row.split(":", 1) for row in information.read_text().splitlines() if ":" in row)
        available = int(rows["MemAvailable"].split()[0]) << 10
    except (OSError, ValueError, KeyError, IndexError):
        return
    if available < MEMORY:
        yield warning(
            "memory",
            f"{available >> 20} MiB are available, and the agent may take {MEMORY >> 20}",
            "lower MemoryMax= of the unit (systemctl edit sbc-edge-agent), and records.queue_bytes",
        )
    else:
        yield ok("memory", f"{available >> 20} MiB are available, the agent takes {MEMORY >> 20} at most")
