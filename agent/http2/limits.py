"""Bounds of a connection, what crossing each leads to, and who counts it. No I/O; time is an argument."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from agent.http2.errors import Code, ConnectionFault

WINDOW_MAX: Final = 2**31 - 1
"""RFC 9113 6.9.1."""

TABLE_BYTES: Final = 4096
"""Of a peer's dynamic header table: the default, and some fifty entries of gRPC's."""

BLOCK_BYTES: Final = 16_384
"""Of a header block as it comes: gRPC's own bound of a list is 8 KiB, soft, and 16 KiB, hard."""

LIST_BYTES: Final = 16_384
"""Of the list that comes of a block (RFC 9113 6.5.2): a block of small references can become long ("HPACK bomb")."""

CONTINUATIONS: Final = 8
"""Frames that go on with one header block ("CONTINUATION flood"); 16 KiB fit into the first."""

CHATTER: Final = (1000.0, 100.0)
"""Frames beside the calls themselves (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, unknown ones): so many at
once and so many a second, and one more for each that carries something. Some clients ping each round trip."""

RESETS: Final = (10_000.0, 4000.0)
"""Streams reset by the peer, or by us for what he did on them ("Rapid Reset", CVE-2023-44487; "MadeYouReset",
CVE-2025-8671). A stream costs some 15 us, so 4,000 a second are 6 % of a core; a client whose calls all are too late
stays below that."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may have of us."""

    streams: int = 2048
    frame_bytes: int = 65_536  # the longest payload: bigger frames for big messages, small enough to keep one of each
    stream_window: int = 1 << 20  # a message of the greatest size without a pause
    connection_window: int = 16 << 20  # held back by what is kept (`Allowance`), not by this
    held_bytes: int = 8 << 20  # of messages that are not whole or not taken yet: eight of the greatest size
    out_bytes: int = 128 << 10  # written in one turn; what goes beyond waits in its stream
    unread_bytes: int = 16 << 20  # that wait for a client who does not read; beyond it, his connection ends


class Meter:
    """A bucket of tokens: `burst` at once, `rate` a second."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = self._left = burst
        self._rate = rate
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether there was one."""
        self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._rate) - 1.0
        self._at = now
        return self._left >= 0.0

    def give(self, tokens: float) -> None:
        """For what is useful."""
        self._left = min(self._burst, self._left + tokens)


class Floods:
    """Holds a connection against CHATTER and RESETS; `counts` is shared by all connections of a server."""

    def __init__(self, counts: "Counter[str]") -> None:
        self._counts = counts
        self._chatter = Meter(*CHATTER)
        self._resets = Meter(*RESETS)

    def useful(self, frames: int) -> None:
        self._chatter.give(frames)

    def chatter(self, what: str, now: float) -> None:
        """Raises ConnectionFault."""
        if not self._chatter.take(now):
            self.exceeded(what)

    def reset(self, now: float) -> None:
        """Raises ConnectionFault."""
        if not self._resets.take(now):
            self.exceeded("resets")

    def exceeded(self, what: str) -> None:
        """Count it and end the connection. Raises ConnectionFault."""
        self._counts[what] += 1
        raise ConnectionFault(Code.ENHANCE_YOUR_CALM, f"too many {what}")


class Allowance:
    """Bytes that may be kept; what one connection takes, `whole`, the server's, has less of."""

    __slots__ = ("_most", "_whole", "held")

    def __init__(self, most: int, whole: "Allowance | None" = None) -> None:
        self.held = 0
        self._most = most
        self._whole = whole

    def take(self, size: int) -> bool:
        """Whether there is room; if so, `give` must follow."""
        if self.held + size > self._most or (self._whole is not None and not self._whole.take(size)):
            return False
        self.held += size
        return True

    def give(self, size: int) -> None:
        self.held -= size
        if self._whole is not None:
            self._whole.give(size)
