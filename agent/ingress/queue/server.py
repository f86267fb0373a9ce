"""The queue as one part of the daemon: its rules, its packets, its answers, and proof that somebody is there.

Everything here fails towards passing calls. The kernel asks only while the ports are armed, for a second at a time:
`_beat` runs on the event loop and renews that four times a second, in a thread, as another program's rules may make it
wait. An event loop that hangs, or a process that is stopped, renews nothing, and the kernel goes on by itself. When the
loop is back, what waited is let go unread: its callers have sent it again meanwhile, and it passed. When the process
ends, however it ends, the kernel removes the table and lets calls pass.
"""

import asyncio
import errno
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from agent.ingress.queue.responder import GOES_ON, Judged, QueueResponder
from agent.ingress.queue.settings import QueueSettings
from agent.kernel.datagram import read_datagram
from agent.kernel.netlink import KernelError, Message
from agent.kernel.nfqueue import BATCH, Queue, Queued, statistics
from agent.kernel.nft import Nft, fill_messages
from agent.kernel.raw_reply import Path, RawReplies, Reply
from agent.kernel.ruleset_wire import Via
from agent.kernel.tables import ARMED_SECONDS, QUEUE, armed, queue_table
from agent.service import Service
from agent.sip.transactions import T1, ServerTransactions

BEAT_SECONDS: Final = ARMED_SECONDS / 4
"""Three beats may be late before the kernel stops asking."""

COUNTED_EVERY: Final = 20
"""Beats between two readings of the kernel's counters: 5 s, as a reading takes some milliseconds of the interpreter."""

LOOK_SECONDS: Final = 0.01
"""How often to look, when the server stops, whether the last ACK has come and what is still on its way to us."""

TEXTS_MAX: Final = 16_384
"""Addresses whose text is remembered, as in agent/ingress/datagrams.py."""

_RESPONDER: Final = (
    "invites", "refused", "dropped", "acks", "cancels", "undecided", "unanswerable", "failures"
)  # fmt: skip
_OWN: Final = (
    "passed", "stopped", "not_whole", "no_address", "released", "stalls", "passed_full", "kernel_drops",
    "renewal_failures", "reinstalled", "verdict_errors"
)  # fmt: skip
_TRANSACTIONS: Final = ("overflows", "shortened", "retransmissions", "acknowledged", "unacknowledged")


class QueueServer:
    """A component of the daemon (agent.ops.component.Server). `clock` is monotonic seconds, `wall` epoch seconds.

    `on_failure` hears of faults of ours; the calls that they happened on passed. `follows_calls` as QueueResponder.
    """

    name: Final = "queue"

    def __init__(
        self,
        service: Service,
        settings: QueueSettings,
        on_failure: Callable[[Exception], None] = lambda _error: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        *,
        follows_calls: bool = False,
    ) -> None:
        self.transactions: ServerTransactions[Path] = ServerTransactions(settings.transactions)
        self.responder = QueueResponder(service, self.transactions, on_failure, follows_calls=follows_calls)
        self.counts: Counter[str] = Counter(dict.fromkeys(_OWN, 0))
        self._settings = settings
        self._on_failure = on_failure
        self._clock = clock
        self._wall = wall
        self._queue = Queue(settings.number, settings.length)
        self._replies = RawReplies(settings.mark)
        self._nft = Nft()
        self._beater = ThreadPoolExecutor(1, "queue-beat")
        self._texts: dict[bytes, str] = {}
        self._arming: dict[bool, list[Message]] = {}  # whether INVITEs are taken: what says so to the kernel
        self._via: Via | None = None
        self._reassembles = False
        self._running = False
        self._taking_calls = False
        self._beats = 0
        self._last_beat = 0.0
        self._armed_at = 0.0  # when the kernel last took our proof of life
        self._drained = True  # there was nothing left when we looked last
        self._ruled_before = 0  # what we had received when the table was made again
        self._beating: asyncio.Future[None] | None = None
        self._next_beat: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._trouble = ""

    # ---- start and stop

    async def start(self) -> None:
        """Take the queue, then have the kernel ask. Raises OSError that says what is missing."""
        try:
            self._replies.probe()
            self._queue.open()
            self._nft.open()
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._beater, self._install)
            self._running = self._taking_calls = True
            self._last_beat = self._armed_at = self._clock()
            await loop.run_in_executor(self._beater, self._nft.send, self._arming[True])
            loop.add_reader(self._queue.fileno(), self._readable)
        except BaseException:
            self._running = self._taking_calls = False
            self._close()
            raise
        self._next_beat = loop.call_later(BEAT_SECONDS, self._beat)

    async def stop(self, grace: float) -> None:
        """Take no more calls, wait up to `grace` seconds for ACKs, then let everything go that is still there."""
        if not self._running:
            return
        loop = asyncio.get_running_loop()
        self._taking_calls = False
        await self._renewed()
        ends = self._clock() + grace
        while self.transactions.waiting and self._clock() < ends:
            await asyncio.sleep(LOOK_SECONDS)
        self._running = False
        if self._next_beat is not None:
            self._next_beat.cancel()
        if self._timer is not None:
            self._timer.cancel()
        try:
            await loop.run_in_executor(self._beater, self._nft.remove, QUEUE)
        except OSError as error:
            self._on_failure(error)
        loop.remove_reader(self._queue.fileno())
        # Packets that met the rule just before it went may still be on their way.
        for _ in range(2):
            self.counts["released"] += self._queue.release()
            await asyncio.sleep(LOOK_SECONDS)
        self.counts["released"] += self._queue.release()
        self._close()

    def _install(self) -> None:
        self._via = self._nft.way_to_queue()
        if self._via is None:
            raise OSError(errno.EOPNOTSUPP, "this kernel can queue packets neither by nf_tables nor by xt_NFQUEUE")
        self._reassembles = self._nft.reassembles()
        for taking in (True, False):
            self._arming[taking] = fill_messages(QUEUE, armed(self._settings.ports, invites=taking))
        settings = self._settings
        self._nft.install(queue_table(settings.number, settings.mark, reassembles=self._reassembles), self._via)

    def _close(self) -> None:
        self._beater.shutdown(wait=False, cancel_futures=True)
        self._nft.close()
        self._queue.close()
        self._replies.close()

    # ---- proof of life

    def _beat(self) -> None:
        """On the event loop: it is alive, so the kernel may ask for another second."""
        loop = asyncio.get_running_loop()
        self._next_beat = loop.call_later(BEAT_SECONDS, self._beat)
        self._release_stale()
        self._last_beat = self._clock()
        self._beats += 1
        if self._beating is None or self._beating.done():
            self._beating = loop.create_task(self._renewed())

    async def _renewed(self) -> None:
        """Arm the ports for another second; when the table is gone, make it again."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._beater, self._nft.send, self._arming[self._taking_calls])
            if self._beats % COUNTED_EVERY == 0:
                seen = await loop.run_in_executor(self._beater, self._nft.counters, QUEUE)
                self._count_passed(sum(seen.values()))
        except KernelError as error:
            self.counts["renewal_failures"] += 1
            self._trouble = str(error)
            if error.errno == errno.ENOENT and self._running:
                self.counts["reinstalled"] += 1
                await self._reinstalled()
        except Exception as error:
            self.counts["renewal_failures"] += 1
            self._trouble = str(error)
            self._on_failure(error)
        else:
            self._trouble = ""
            self._armed_at = self._clock()

    async def _reinstalled(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._beater, self._install)
        except OSError as error:
            self._trouble = str(error)
        else:
            self._ruled_before = self._received

    def _release_stale(self) -> bool:
        """After a stall that the kernel noticed: what waited passes. Screening it now could refuse a call that has
        passed meanwhile, when its caller sent it again."""
        now = self._clock()
        if now - self._last_beat < ARMED_SECONDS:
            return False
        self._last_beat = now
        self.counts["stalls"] += 1
        self.counts["released"] += self._queue.release()
        return True

    def _count_passed(self, ruled: int) -> None:
        """What rules sent to the queue and it did not take: it was full, or its buffer was. The kernel counts nothing
        of that while the queue is fail open. What still waits for us has not passed: at most what the queue holds."""
        waiting = 0 if self._drained else self._settings.length
        passed = ruled + self._ruled_before - self._received - waiting
        self.counts["passed_full"] = max(self.counts["passed_full"], passed)
        found = statistics(self._settings.number)  # for root only, by the permissions of that file
        if found is not None:
            self.counts["kernel_drops"] = found.queue_dropped + found.user_dropped

    @property
    def _received(self) -> int:
        return self.counts["passed"] + self.counts["stopped"] + self.counts["released"]

    # ---- packets

    def _readable(self) -> None:
        """One batch; what is left is for the next turn of the loop, so that nobody else waits long."""
        if self._release_stale():
            return
        now, when = self._clock(), self._wall()
        accepted: list[int] = []
        dropped: list[int] = []
        replies: list[Reply] = []
        received = self._queue.receive()
        self._drained = len(received) < BATCH
        for queued in received:
            goes_on, reply = self._judge(queued, now, when)
            (accepted if goes_on else dropped).append(queued.id)
            if reply is not None:
                replies.append(reply)
        try:
            self._queue.answer(accepted, dropped)
        except OSError as error:
            self.counts["verdict_errors"] += 1
            self._on_failure(error)
        self.counts["passed"] += len(accepted)
        self.counts["stopped"] += len(dropped)
        if replies:
            self._replies.send(replies)
        if self._timer is None:
            self._arm_timer(now)

    def _judge(self, queued: Queued, now: float, when: float) -> Judged:
        datagram = read_datagram(queued.packet)
        if datagram is None:
            self.counts["not_whole"] += 1
            return GOES_ON
        if not self._replies.can_send_from(datagram.target, queued.interface):
            self.counts["no_address"] += 1  # a call that we cannot answer we cannot refuse
            return GOES_ON
        source, local = self._text(datagram.source), self._text(datagram.target)
        back = Path(datagram.target, datagram.target_port, datagram.source, datagram.source_port, queued.interface)
        return self.responder.receive(datagram.payload, (source, datagram.source_port), local, back, now, when)

    def _text(self, address: bytes) -> str:
        try:
            return self._texts[address]
        except KeyError:
            if len(self._texts) >= TEXTS_MAX:
                self._texts.clear()
            family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
            text = self._texts[address] = socket.inet_ntop(family, address)
            return text

    def _arm_timer(self, now: float) -> None:
        """As the redirect server's: never longer than the first interval of Timer G."""
        deadline = self.transactions.next_deadline()
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_later(min(max(deadline - now, 0.0), T1), self._fire)

    def _fire(self) -> None:
        self._timer = None
        if not self._running:
            return
        now = self._clock()
        copies = self.transactions.due(now)
        if copies:
            self._replies.send(copies)
        self._arm_timer(now)

    # ---- how it is

    def health(self) -> tuple[bool, str]:
        """Whether the kernel asks, about what, and what could be better."""
        if not self._running:
            return False, "not running"
        if self._trouble:
            return False, f"the kernel does not ask, calls pass: {self._trouble}"
        late = self._clock() - self._armed_at
        if late >= ARMED_SECONDS:
            return False, f"the kernel does not ask, calls pass: it has not answered for {late:.1f} s"
        ports = ", ".join(map(str, self._settings.ports))
        way = "nf_tables" if self._via == "nft" else "xt_NFQUEUE"
        words = f"asked about INVITEs by UDP to port {ports} through {way}"
        if not self._reassembles:
            words += "; fragmented INVITEs of IPv6 pass unscreened, as this kernel has no nft_tproxy"
        return True, words

    def counters(self) -> Mapping[str, int]:
        """Everything counted since the start; the last two are what is held now."""
        counts = Counter(self.counts)
        for name in _RESPONDER:
            counts[name] = getattr(self.responder, name)
        for name in _TRANSACTIONS:
            counts[name] = getattr(self.transactions, name)
        counts["unsent"] = self._replies.unsent
        counts["receive_errors"] = self._queue.receive_errors
        counts["transactions"] = len(self.transactions)
        counts["waiting_for_ack"] = self.transactions.waiting
        return {f"queue_{name}": number for name, number in counts.items()}
