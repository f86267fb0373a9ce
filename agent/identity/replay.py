"""Which tokens calls have shown lately. Knows signatures and calls' identifiers; time is an argument (epoch seconds).

A PASSporT names numbers and a second, no call: whoever saw one can show it again for the same two numbers within the
freshness window, and every other check passes. The signature is remembered with the call that showed it first. The
same call again (retransmission, fork, retry after a challenge) has the same Call-ID and From tag.
"""

from typing import Final

from agent.calls.ticks import Ticks

# Tokens of two windows. 2,500 verified calls a second for two minutes twice are 600,000; 150 bytes each, 90 MB at
# worst, and 2 MB for the 50 calls a second of a busy SBC.
CAPACITY: Final = 600_000

_R: Final = 32


class ReplayCache:
    """Signatures of good tokens, each for at least `window` seconds, which must cover the life of a token.

    A token is fresh from `freshness` seconds before its iat to as long after it, so `window` is twice the freshness.
    `overflows` counts what was forgotten early because more than `capacity` tokens came: then a replay may pass.
    `show` may be called from several threads.
    """

    __slots__ = ("_half", "_old", "_ticks", "_young", "overflows")

    def __init__(self, window: float = 120.0, capacity: int = CAPACITY) -> None:
        self._half = max(1, capacity // 2)
        self._ticks = Ticks(window, 2)
        self._young: dict[bytes, int] = {}
        self._old: dict[bytes, int] = {}
        self.overflows = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def show(self, signature: bytes, call_id: bytes, from_tag: bytes, when: float) -> bool:
        """Remember that this call shows a good token. False if another call has shown it before: a replay.

        Of the signature only r counts: (r, n - s) is as good a signature as (r, s), and anybody can make it of it.
        """
        ticks = self._ticks
        if not ticks.start <= when < ticks.end:
            self._forget(ticks.advance(when))
        key, call = signature[:_R], hash((call_id, from_tag))
        first = self._old.get(key)
        if first is None:
            if len(self._young) >= self._half and key not in self._young:
                self.overflows += len(self._old)
                self._old, self._young = self._young, {}
            first = self._young.setdefault(key, call)
        return first == call

    def _forget(self, steps: int) -> None:
        if steps:
            self._old, self._young = ({} if steps > 1 else self._young), {}
