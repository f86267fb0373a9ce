"""Whether the kernel knows its clock to be right (adjtimex(2)). Knows one system call; sets nothing."""

import ctypes
import os
from typing import Final

_TIME_ERROR: Final = 5  # linux/timex.h: clock not synchronised
_STA_UNSYNC: Final = 0x0040


class _Timex(ctypes.Structure):
    """struct timex, as far as it is read; the rest is space for the kernel to write in."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("space", ctypes.c_byte * 256),
    )


def synchronised() -> tuple[bool, float]:
    """Whether something (NTP, PTP) keeps the clock right, and by how many seconds it may be wrong at most.

    Both as far as the kernel knows. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    timex = _Timex()
    state = libc.adjtimex(ctypes.byref(timex))
    if state < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return state != _TIME_ERROR and not timex.status & _STA_UNSYNC, timex.maxerror / 1e6
