"""CRC-32C (Castagnoli, RFC 3720 B.4), as chunks of lists carry it on their way from the controller.

It finds what a link or a memory changed in a chunk, while the SHA-256 of a list can only tell when all has come.
"""

from typing import TYPE_CHECKING, Final

from agent import native

if TYPE_CHECKING:
    from typing_extensions import Buffer

_POLYNOMIAL: Final = 0x82F63B78


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ _POLYNOMIAL if crc & 1 else crc >> 1
        table.append(crc)
    return tuple(table)


_TABLE: Final = _table()


def crc32c_py(data: "Buffer", value: int = 0) -> int:
    """The checksum of `data`; `value` is that of what comes before it. 10 MB a second."""
    crc = value ^ 0xFFFFFFFF
    for byte in memoryview(data).cast("B"):
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


crc32c = native.crc32c.crc32c if native.crc32c is not None else crc32c_py
