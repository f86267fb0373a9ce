"""A day without a controller, simulated: time is an argument, so it takes seconds. A restart is in the middle of it.

The session, its back-off, the spool on a real disk, the lease book and what the uploader reads, as they are; only the
hours are made up.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.control import steps
from agent.control.backoff import LONGEST_SECONDS, Backoff
from agent.control.errors import ControllerError, Trouble
from agent.control.messages import Hello, Offer, Welcome
from agent.control.offers import Offers
from agent.control.quota import Granted, QuotaExchange, QuotaReply
from agent.control.session import Identity, Send, Session, State
from agent.control.soak import Vitals
from agent.control.steps import Journal
from agent.control.upload_flow import Piece, pieces
from agent.policy.leases import FleetRate, LeaseBook, Partition, Safe
from agent.records.batches import BatchReader, Gap
from agent.records.segment import Batch, read_batches
from agent.records.settings import SpoolSettings
from agent.records.spool_store import Group, SpoolStore
from tests.control.offering import an_offer

DAY = 86_400
STEP = 300
"""Seconds between two groups of records."""
CALLS = 40
"""In each group; every fourth is refused."""
RESTART = 12 * 3600
BOUND = 160 << 10
WHEN = 1_800_000_000.0
LIMIT, KEY = "all", "*"
SAFE = Safe(0.5, 5.0)


@dataclass
class Life:
    """One agent from a start to its end. `now` is monotonic and goes on over a restart, as does `when`."""

    folder: Path
    confirmed: Offer
    now: float
    chance: random.Random
    safe: dict[tuple[str, str], Safe]
    attempts: list[float] = field(default_factory=list)
    passed: int = 0

    def __post_init__(self) -> None:
        settings = SpoolSettings(
            self.folder, max_bytes=BOUND, segment_bytes=16384, min_free_ratio=0.0, max_age_seconds=7 * DAY
        )
        self.spool = SpoolStore(settings)
        self.spool.open(self.now, WHEN + self.now)
        self.session = Session(Offers(self.confirmed, Journal({}, {})), lambda: Vitals(attempts=self.passed))
        self.book = LeaseBook()
        self.book.attached = True
        self.book.restore(self.safe)
        self.book.follow({LIMIT: FleetRate(20.0, 5.0, Partition.SAFE)}, [(LIMIT, KEY)])
        self.backoff = Backoff(self.chance.random)
        self.retry_at = self.now

    def calls(self, number: int) -> None:
        """A group of records, as its writer has it."""
        lines = [line_of(f"{number + n}", WHEN + self.now) for n in range(CALLS)]
        refused = [line for n, line in enumerate(lines) if n % 4 == 3]
        allowed = [line for n, line in enumerate(lines) if n % 4 != 3]
        self.spool.write(Group(refused=refused, allowed=allowed), self.now, WHEN + self.now)
        self.spool.keep_house(self.now, WHEN + self.now)
        for _ in range(CALLS):
            found = self.book.hit(LIMIT, KEY, self.now)
            if found is not None and found[1]:
                found[0].take()
                self.passed += 1

    def tries(self) -> None:
        """Nobody is there, as often as it asks until now."""
        while self.retry_at <= self.now:
            self.attempts.append(self.retry_at)
            self.session.connected(Identity("uid", "boot", "0.1.0", ()), self.retry_at, WHEN + self.retry_at)
            self.session.lost()
            delay = self.backoff.failed(ControllerError(Trouble.AWAY, "nobody"), self.retry_at)
            assert 0 <= delay <= LONGEST_SECONDS
            self.retry_at += max(delay, 0.01)


def line_of(name: str, when: float) -> bytes:
    """A record, with something in it that does not shrink."""
    return json.dumps({"time": when, "call_id": name, "noise": random.Random(name).randbytes(20).hex()}).encode()


def uploaded(life: Life, archive: dict[int, str]) -> Iterator[Gap]:
    """What an uploader would send, into the archive; the gaps that it would tell."""
    reader = BatchReader(life.folder, life.spool.manifest.epoch)
    position = 0
    try:
        while (found := reader.next(life.spool.settled, lambda: life.spool.manifest.dropped)) is not None:
            if isinstance(found, Gap):
                yield found
            else:
                for piece in pieces(found, position):
                    assert isinstance(piece, Piece)
                    for batch in read_batches(piece.data, 0):
                        assert isinstance(batch, Batch)
                        for n, line in enumerate(batch.lines()):
                            assert batch.first + n not in archive, "sent twice"
                            archive[batch.first + n] = json.loads(line)["call_id"]
            position = found.last
            reader.took(found)
    finally:
        reader.close()


def test_a_day_without_a_controller_and_a_restart_in_it_lose_nothing_that_was_not_told(tmp_path: Path) -> None:
    chance = random.Random(7)
    safe: dict[tuple[str, str], Safe] = {}
    life = Life(tmp_path / "spool", an_offer(3), 0.0, chance, safe)
    exchange = QuotaExchange(life.book)
    granted = Granted(LIMIT, KEY, 15.0, 5.0, 3.0, SAFE)
    assert exchange.take(QuotaReply(exchange.ask(0.0).sequence, 1, (granted,)), 0.0)
    lives, made, dropped_at_noon = [life], 0, 0
    for now in range(STEP, DAY + STEP, STEP):
        life.now = float(now)
        life.calls(made)
        made += CALLS
        life.tries()
        effects = life.session.tick(life.now, WHEN + life.now)
        assert not [effect for effect in effects if isinstance(effect, Send)], "it speaks to nobody"
        assert life.spool.counts.bytes <= BOUND + 2 * 16384, "the spool is bounded"
        if now == RESTART:
            # What a kill leaves: the disk as it is, and nothing that was in memory but what is on it, too.
            dropped_at_noon = sum(one.count for one in life.spool.manifest.dropped)
            shutil.copytree(tmp_path / "spool", tmp_path / "after")
            life = Life(tmp_path / "after", an_offer(3), life.now, chance, life.book.safe())
            lives.append(life)
    assert dropped_at_noon > 0, life.spool.counts
    assert life.session.offers.active.generation == 3, "it decides by what it had"
    waits = [b - a for one in lives for a, b in zip(one.attempts, one.attempts[1:], strict=False)]
    assert DAY / 60 < len(waits) < DAY / 20, "on average half a minute, for a whole day"
    allowed_by_lease = 3 * 15 + 5
    for one, seconds in zip(lives, (RESTART, DAY - RESTART), strict=True):
        assert one.passed <= SAFE.rate * seconds + 2 * SAFE.burst + allowed_by_lease, "the share fell to what is safe"
        assert one.passed > 0

    # The controller is there again.
    archive: dict[int, str] = {}
    gaps = list(uploaded(life, archive))
    names = Counter(archive.values())
    assert max(names.values()) == 1, "nothing is there twice"
    lost = sum(gap.count for gap in gaps)
    assert len(archive) + lost == made, "every record is there, or is told"
    assert {gap.kind for gap in gaps} == {"allowed"}, "what was refused has stayed"
    assert sum(int(name) % CALLS % 4 == 3 for name in archive.values()) == made // 4
    kept = [number for number, name in archive.items() if int(name) % CALLS % 4 != 3]
    assert max(gap.last for gap in gaps) < min(kept), "the oldest have gone"
    hello = life.session.connected(Identity("uid", "boot", "0.1.0", ()), life.now, WHEN + life.now)
    assert isinstance(hello[0], Send)
    assert isinstance(hello[0].message, Hello)
    assert hello[0].message.active.generation == 3
    life.session.receive(Welcome("c1", WHEN + life.now, frozenset(), 10.0), life.now, WHEN + life.now)
    assert life.session.state is State.OPEN
    effects = life.session.tick(life.now + 20.0, WHEN + life.now + 20.0)
    assert [effect for effect in effects if isinstance(effect, Send)], "it speaks again"
    assert not [effect for effect in effects if isinstance(effect, steps.Prepare)]
