"""Runs classic BPF as the kernel does (net/core/filter.c), so that filters can be tried without a socket."""

import struct
from typing import Final

PACKET_TYPE: Final = 0xFFFFF004
MASK: Final = 0xFFFFFFFF


def run(program: bytes, packet: bytes, kind: int = 0) -> int:
    """What the filter returns for a packet: bytes to hand over, 0 to drop it. `kind` is its PACKET_* direction."""
    code: list[tuple[int, int, int, int]] = list(struct.iter_unpack("=HBBI", program))
    a = x = 0
    memory: dict[int, int] = {}
    at = 0
    while True:
        op, yes, no, k = code[at]
        at += 1
        if op in (0x20, 0x28, 0x30, 0x40, 0x48, 0x50):
            size = {0x00: 4, 0x08: 2, 0x10: 1}[op & 0x18]
            if op & 0xE0 == 0x20 and k >= 0xFFFFF000:
                assert k == PACKET_TYPE, f"ancillary load of {k:#x}"
                a = kind
                continue
            start = (k + (x if op & 0xE0 == 0x40 else 0)) & MASK
            if start + size > len(packet):
                return 0
            a = int.from_bytes(packet[start : start + size], "big")
        elif op == 0x60:
            a = memory[k]
        elif op == 0x02:
            memory[k] = a
        elif op == 0x01:
            x = k
        elif op == 0x54:
            a &= k
        elif op == 0x64:
            a = a << k & MASK
        elif op == 0x74:
            a >>= k
        elif op == 0x04:
            a = (a + k) & MASK
        elif op == 0x0C:
            a = (a + x) & MASK
        elif op == 0x07:
            x = a
        elif op == 0x87:
            a = x
        elif op == 0x05:
            at += k
        elif op == 0x15:
            at += yes if a == k else no
        elif op == 0x45:
            at += yes if a & k else no
        elif op == 0x06:
            return k
        else:
            raise AssertionError(f"instruction {op:#x}")
