# The compiled twin of agent/kernel/ring.py, which says what the function does.

from mmap import mmap

def take_block(
    ring: mmap | bytearray, offset: int, size: int, /
) -> list[tuple[float, bytes, int, int, int]] | None: ...
