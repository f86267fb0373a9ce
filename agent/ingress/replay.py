"""Drives capture files through screening: packets, datagrams and streams, messages, decisions.

Runs on the capture's own clock and holds only bounded tables, so a capture of any size replays in constant
memory. Several files are one run: tables, streams and counters carry on from file to file. Must not know
policy or print anything: whoever iterates over `run` sees the decisions, and `files` counts what was read.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from agent.ingress.assembly import Assembly
from agent.ingress.capture_file import CaptureFile, Damage
from agent.ingress.counts import WireCounts
from agent.ingress.layers import LINK_TYPES
from agent.ingress.recognition import Message, address_text
from agent.model import ConfigError
from agent.screening import Decision, Observation, Screening

MAX_DISORDER: Final = 5.0
"""Seconds that a packet may be older than its predecessors: captures of several interfaces are not sorted.
What is older comes from another time, and the clock starts again from there."""

PROGRESS_EVERY: Final = 512  # packets between two reports of the position; a power of two


class CaptureClock:
    """Monotonic seconds from a capture's timestamps, which may stand still or jump back; 0 is the first packet."""

    def __init__(self) -> None:
        self._now: float | None = None
        self._shift = 0.0

    def read(self, when: float) -> float:
        """The time of a packet stamped `when`; never less than what was read before."""
        if self._now is None:
            self._shift = -when
        now = when + self._shift
        if self._now is None or now > self._now:
            self._now = now
        elif now < self._now - MAX_DISORDER:
            self._shift += self._now - now  # so that time goes on from here at the capture's pace
        return self._now


@dataclass(slots=True)
class FileCounts(WireCounts):
    """What one capture file held. `first` and `last` are the times of its packets, epoch seconds."""

    path: str
    first: float | None = None
    last: float | None = None
    reassembled: int = 0
    tcp_gaps: int = 0
    damage: Damage | None = None
    error: str = ""

    @property
    def whole(self) -> bool:
        """Whether the file was read to its end and understood."""
        return not self.error and self.damage is None


class Outcome(NamedTuple):
    """The decisions on one INVITE, one per screening; None where a screening leaves the message alone."""

    when: float
    decisions: tuple[Decision | None, ...]


class Replay:
    """One run over capture files. `ports` empty: every port is looked at, and SIP is told by its content."""

    def __init__(
        self,
        screenings: Sequence[Screening],
        ports: frozenset[int] = frozenset(),
        progress: Callable[[int], None] = lambda _position: None,
    ) -> None:
        self.files: list[FileCounts] = []
        self._screenings = screenings
        self._progress = progress
        self._clock = CaptureClock()
        self._counts = FileCounts("")
        self._assembly = Assembly(self._counts, ports)

    def run(self, paths: Sequence[Path]) -> Iterator[Outcome]:
        """Every decision on a call attempt, in the order of the capture. Reads the files in the order given.

        Raises nothing: what cannot be read of a file is in its FileCounts, and the next file is read.
        """
        before = 0
        for path in paths:
            capture = CaptureFile(path)
            self._counts = self._assembly.counts = FileCounts(str(path))
            self.files.append(self._counts)
            try:
                yield from self._read(capture, before)
            except ConfigError as error:
                self._counts.error = error.reason
            self._counts.damage = capture.damage
            self._note_links()
            before += capture.size or 0
            self._progress(before)
        if self.files:  # what the streams still hold belongs to the end of the run
            last = self._counts.last or 0.0
            for message in self._assembly.finish():
                yield from self._message(message, last, self._clock.read(last))

    def _read(self, capture: CaptureFile, before: int) -> Iterator[Outcome]:
        counts, fragments, streams = self._counts, self._assembly.fragments, self._assembly.streams
        fragments_before, gaps_before = fragments.counts.reassembled, streams.counts.gaps
        try:
            for packet in capture.packets():
                when = packet.when
                if not counts.packets & (PROGRESS_EVERY - 1):
                    self._progress(before + capture.position)
                if counts.first is None:
                    counts.first = when
                counts.packets += 1
                counts.last = when
                if packet.wire_length > len(packet.data):
                    counts.truncated += 1
                now = self._clock.read(when)
                for message in self._assembly.add(packet.linktype, packet.data, now):
                    yield from self._message(message, when, now)
        finally:
            counts.reassembled = fragments.counts.reassembled - fragments_before
            counts.tcp_gaps = streams.counts.gaps - gaps_before

    def _message(self, message: Message, when: float, now: float) -> Iterator[Outcome]:
        """Count one message and hand it to every screening."""
        if self._counts.read(message) is None:
            return
        observation = Observation(
            message.raw,
            message.transport,
            address_text(message.source),
            message.source_port,
            address_text(message.destination),
            message.destination_port,
            when,
        )
        decisions = tuple(screening.handle(observation, now) for screening in self._screenings)
        if decisions and decisions[0] is not None and decisions[0].seen.counts:
            self._counts.attempts += 1
            yield Outcome(when, decisions)
        elif any(decision is not None and decision.seen.counts for decision in decisions):
            yield Outcome(when, decisions)

    def _note_links(self) -> None:
        """A file of nothing but frames that cannot be read is an error, not a capture without SIP."""
        counts = self._counts
        unread = sum(counts.unsupported_links.values())
        if unread and unread == counts.packets and not counts.error:
            names = ", ".join(f"{name} ({number})" for number, name in sorted(LINK_TYPES.items()))
            counts.error = (
                f"has link type {', '.join(counts.unsupported_links)}, which cannot be read; supported: {names}"
            )
