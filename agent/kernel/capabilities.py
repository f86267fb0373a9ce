"""Which of root's powers this process has (capabilities(7)), how to say that one is missing, and how to let go of them.

Knows numbers and words; must not know what the powers are used for.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# linux/capability.h
NET_ADMIN, NET_RAW, BPF, PERFMON = "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"
_BITS: Final = {NET_ADMIN: 12, NET_RAW: 13, PERFMON: 38, BPF: 39}

_STATUS: Final = Path("/proc/thread-self/status")
_VERSION_3: Final = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two words of each set
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

_libc: Final = ctypes.CDLL(None, use_errno=True)


def has(capability: str) -> bool:
    """Whether this thread may use it now. A kernel that does not say is taken to mean yes: the call will tell."""
    try:
        rows = _STATUS.read_text().splitlines()
    except OSError:
        return True
    effective = next((int(row.split()[1], 16) for row in rows if row.startswith("CapEff:")), -1)
    return bool(effective >> _BITS[capability] & 1)


def missing(capability: str, to_do: str) -> PermissionError:
    """The error that says which capability `to_do` ("capture packets") needs, and how to give it."""
    name = capability.lower()
    return PermissionError(
        errno.EPERM,
        f"to {to_do} this process needs the capability {capability}: for the service, `sbc-agent setup --service` and "
        f"restart it; by hand, run it as root or with setpriv --inh-caps +{name[4:]} --ambient-caps +{name[4:]}",
    )


def keep_only(capabilities: Iterable[str] = ()) -> None:
    """Let go of every other one, for good: effective, permitted and inheritable, and of all ambient ones.

    Of this thread only (threads that it starts later inherit what is kept). Raises OSError if the kernel refuses.
    """
    bits = sum(1 << _BITS[name] for name in capabilities)
    # Clearing the inheritable set clears the ambient one too, but for a set that was empty before.
    if _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0):
        raise _failure("prctl(PR_CAP_AMBIENT)")
    header = struct.pack("=Ii", _VERSION_3, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    sets = struct.pack("=6I", low, low, 0, high, high, 0)  # effective, permitted, inheritable; twice
    if _libc.capset(header, sets):
        raise _failure("capset")


def _failure(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
