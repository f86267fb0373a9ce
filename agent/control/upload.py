"""Sends the records of the spool up, in order, over a channel of its own, and tells the spool what may go.

The controller says where to go on; what it says is durable there is forgotten here when room is short. At any moment
either side may die: the next stream begins at what is durable. The edge: gRPC, a thread for the disk, the clock.
Trouble never reaches a call; it shows in `health`, and is tried again with full jitter.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from grpc import StatusCode, aio

from agent.control.backoff import Backoff
from agent.control.errors import RETRY_MAX, ControllerError, Trouble, of_rpc
from agent.control.upload_flow import Flow, Piece, pieces
from agent.control.upload_mark import Mark, MarkFile
from agent.ops.log import Log
from agent.records.batches import BatchReader, Framed, Gap
from agent.records.manifest import DroppedRange
from agent.records.spool import Watermark
from sbcedge.report.v1 import report_pb2 as pb
from sbcedge.report.v1 import report_pb2_grpc as pb_grpc

T = TypeVar("T")

LOOK_SECONDS: Final = 0.5
"""Between looks at the spool when there was nothing: records come to the disk twenty times a second."""

FIRST_ANSWER_SECONDS: Final = 30.0
"""The controller may have to finish what the stream before this one has sent."""

ANSWER_SECONDS: Final = 120.0
"""Something is on its way and nothing comes back: its disk is stuck, or something between us is."""

LAST_WORD_SECONDS: Final = 5.0
"""That its status has to come when it takes nothing more."""

MARK_SECONDS: Final = 10.0
"""How often it is written down what has been answered, when nothing else has to be written."""

REFUSALS_MAX: Final = 5
"""Of the same batch: then it is passed over, and reported. It stays in the spool."""

NO_STREAM: Final = "no stream yet"
NO_SPOOL: Final = "the spool is not open"
BEGINNING: Final = ("", NO_STREAM, NO_SPOOL)
"""What is said before anything went wrong."""

REFUSED: Final = "refused by the controller"
OTHER_EPOCH: Final = "under another epoch"
_REFUSING: Final = (StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION)

Request = pb.UploadRecordsRequest
Stream = Any  # aio.StreamStreamCall of UploadRecords


class SpoolView(Protocol):
    """What the uploader needs of the spool."""

    @property
    def settled(self) -> Watermark:
        """Up to where it is on disk, and stays so; epoch 0 as long as it is not open."""
        ...

    @property
    def dropped_ranges(self) -> tuple[DroppedRange, ...]: ...

    def uploaded(self, sequence: int) -> None:
        """Somebody else has all up to this."""
        ...


class _Anew(Exception):  # noqa: N818  (no error: the next stream is another spool's)
    """The mark has another epoch now."""


class Uploader:
    """One for the process. `edition` rises when the channel's certificate is not the latest any more."""

    name: Final = "upload"

    def __init__(
        self,
        spool: SpoolView,
        directory: Path,
        open_channel: Callable[[], aio.Channel],
        edition: Callable[[], int],
        log: Log,
        chance: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._directory = directory
        self._open_channel = open_channel
        self._edition = edition
        self._log = log
        self._backoff = Backoff(chance)
        self._marks = MarkFile(directory)
        self._mark = Mark(0, 0)
        self._saved_at = 0.0
        self._thread: ThreadPoolExecutor | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._trouble = "not started"
        self._refused = (0, 0)  # behind which sequence, and how often
        self._records = self._bytes = self._lost = self._streams = self._failures = 0

    # --- life

    async def start(self) -> None:
        """Begin; nothing is waited for."""
        self._stopping = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "upload")
        self._trouble = NO_STREAM
        self._task = asyncio.create_task(self._run(), name="upload")

    async def stop(self, grace: float) -> None:
        """Wait for the answer to what is on its way, for `grace` seconds; what is not answered is sent again."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=grace)
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None
        self._trouble = "stopped"

    async def _run(self) -> None:
        while not self._stopping.is_set():
            error: ControllerError | None = None
            try:
                await self._stream()
            except _Anew:
                pass
            except ControllerError as failure:
                error = failure
            except OSError as failure:
                where = f" ({failure.filename})" if failure.filename else ""
                error = ControllerError(Trouble.AWAY, f"the spool: {failure.strerror or failure}{where}")
            except Exception as failure:  # a fault of ours must not end it
                self._log.fault(failure, "upload")
                error = ControllerError(Trouble.AWAY, f"fault: {failure!r}")
            if error is not None:
                self._failures += 1
                self._trouble = error.reason
            delay = self._backoff.failed(error, time.monotonic())
            await self._pause(delay)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # --- one stream

    async def _stream(self) -> None:
        """From hello to the end. Raises ControllerError, OSError, _Anew."""
        if not await self._spool_is_there():
            return
        channel = self._open_channel()
        edition = self._edition()
        reader = BatchReader(self._directory, self._mark.spool_epoch)
        stream: Stream = None
        try:
            stream = pb_grpc.ReportServiceStub(channel).UploadRecords()
            await stream.write(Request(hello=pb.UploadHello(spool_epoch=self._mark.epoch)))
            flow = await self._begin(stream)
            try:
                await self._exchange(stream, flow, reader, lambda: edition != self._edition())
            finally:
                await self._remember()
        except aio.AioRpcError as error:
            self._note_refusal(error.code())
            raise of_rpc(error) from error
        except asyncio.InvalidStateError as error:  # grpc's word for a stream that has ended while it was written to
            code = await stream.code() if stream is not None else StatusCode.UNAVAILABLE
            self._note_refusal(code)
            raise ControllerError(Trouble.AWAY, f"the stream has ended: {code.name}") from error
        finally:
            if stream is not None:
                stream.cancel()
            await self._in_thread(reader.close)
            await channel.close()

    async def _spool_is_there(self) -> bool:
        """Wait for the spool, then for its mark. False when we stop before."""
        while not (epoch := self._spool.settled.epoch):
            self._trouble = NO_SPOOL
            await self._pause(LOOK_SECONDS)
            if self._stopping.is_set():
                return False
        if self._mark.spool_epoch != epoch:
            self._mark = await self._in_thread(lambda: self._marks.load(epoch))
            self._spool.uploaded(self._mark.acked)
            if not self._mark.sure:
                with contextlib.suppress(OSError):  # later the disk may be full
                    await self._in_thread(self._marks.reserve)
        return True

    async def _begin(self, stream: Stream) -> Flow:
        """Where to go on. Raises _Anew when somebody else has sent records under our epoch."""
        try:
            async with asyncio.timeout(FIRST_ANSWER_SECONDS):
                answer = await self._answer(stream)
        except TimeoutError:
            raise ControllerError(Trouble.AWAY, f"no answer for {FIRST_ANSWER_SECONDS:g} s") from None
        if answer is None:
            raise ControllerError(Trouble.AWAY, "the stream has ended before it began")
        theirs, settled = answer.committed_through, self._spool.settled
        mark = self._mark
        if theirs > settled.sequence or (mark.sure and theirs > mark.intent):
            epoch = secrets.randbits(64) or 1
            self._log.warning(
                "the controller has records of this spool that were not sent from here: going on as another one",
                theirs=theirs,
                sent=mark.intent,
                epoch=f"{epoch:016x}",
            )
            self._mark = await self._in_thread(lambda: self._marks.save(mark.anew(epoch, settled.sequence)))
            self._spool.uploaded(self._mark.acked)
            raise _Anew
        self._streams += 1
        self._backoff.opened(time.monotonic())
        self._acknowledged(theirs)
        if self._trouble in BEGINNING or not self.behind:
            self._trouble = ""  # else as soon as something has got there: a stream alone is no help
        return Flow(theirs, answer.window)

    async def _exchange(self, stream: Stream, flow: Flow, reader: BatchReader, is_over: Callable[[], bool]) -> None:
        """Send and listen, each in a task, until one of them ends."""
        answered = asyncio.Event()
        sending = asyncio.create_task(self._send(stream, flow, reader, answered, is_over))
        listening = asyncio.create_task(self._listen(stream, flow, answered))
        try:
            await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
            # Until the last answer; and what the controller says is worth more than that it cannot be written to.
            failed = sending.done() and sending.exception() is not None
            await asyncio.wait({listening}, timeout=LAST_WORD_SECONDS if failed else None)
            if listening.done():
                listening.result()
            if sending.done():
                sending.result()
        finally:
            for task in (sending, listening):
                task.cancel()
            await asyncio.wait({sending, listening})

    # --- sending

    async def _send(
        self, stream: Stream, flow: Flow, reader: BatchReader, answered: asyncio.Event, is_over: Callable[[], bool]
    ) -> None:
        position = flow.committed
        if position < self._mark.start:
            gap = Gap(position + 1, self._mark.start, "", OTHER_EPOCH)
            await self._send_items(stream, flow, [gap], answered)
            position = gap.last
        reader.seek(position)
        avoid = self._to_avoid(position)
        while not self._stopping.is_set() and not is_over():
            settled = self._spool.settled
            if settled.epoch != self._mark.spool_epoch:
                raise ControllerError(Trouble.STALE, "the spool has begun anew")
            found = await self._in_thread(lambda: reader.next(settled.sequence, lambda: self._spool.dropped_ranges))  # noqa: B023
            if found is None:
                await self._note_progress()
                await self._pause(LOOK_SECONDS)
                continue
            await self._announce(settled.sequence)
            items: Iterable[Piece | Gap] = [found] if isinstance(found, Gap) else pieces(found, position)
            if avoid and isinstance(found, Framed):
                place = {"first": position + 1, "last": found.last}
                self._log.error("records that the controller refuses are passed over", **place)
                items = [Gap(position + 1, found.last, found.batch.kind.word, REFUSED)]
                avoid = False
            await self._send_items(stream, flow, items, answered)
            position = found.last
            reader.took(found)
        await stream.done_writing()

    async def _send_items(
        self, stream: Stream, flow: Flow, items: Iterable[Piece | Gap], answered: asyncio.Event
    ) -> None:
        for item in items:
            while not flow.may_send(len(item.data) if isinstance(item, Piece) else 0):
                answered.clear()
                await answered.wait()
            flow.sent(item, time.monotonic())
            await stream.write(_request(item))
            if isinstance(item, Piece):
                self._records += item.count
                self._bytes += len(item.data)
            else:
                self._lost += item.count if item.reason != OTHER_EPOCH else 0

    async def _announce(self, through: int) -> None:
        """Write down, before it is sent, what may have been sent."""
        if through <= self._mark.intent and self._mark.sure:
            return
        try:
            await self._save(replace(self._mark, intent=max(through, self._mark.intent)))
        except OSError:
            # A full disk from the first: without a mark none is wrong, and only what is uploaded makes room.
            if self._mark.sure:
                raise

    # --- listening

    async def _listen(self, stream: Stream, flow: Flow, answered: asyncio.Event) -> None:
        while True:
            answer = await self._next_answer(stream, flow)
            if answer is None:
                return
            flow.answered(answer.committed_through, answer.window, time.monotonic())
            self._acknowledged(answer.committed_through)
            answered.set()
            if answer.HasField("retry_after"):
                seconds = min(answer.retry_after.ToMilliseconds() / 1000, RETRY_MAX)
                raise ControllerError(Trouble.BUSY, f"asked to come again in {seconds:g} s", seconds)

    async def _next_answer(self, stream: Stream, flow: Flow) -> Any:
        """For as long as it takes when nothing is on its way, else not for ever."""
        reading = asyncio.create_task(self._answer(stream))
        try:
            while not (await asyncio.wait({reading}, timeout=ANSWER_SECONDS / 8))[0]:
                if flow.waiting(time.monotonic()) > ANSWER_SECONDS:
                    raise ControllerError(Trouble.AWAY, f"no answer for {ANSWER_SECONDS:g} s")
            return reading.result()
        finally:
            reading.cancel()

    async def _answer(self, stream: Stream) -> Any:
        """The next answer; None at the end of the stream. Raises ControllerError."""
        answer = await stream.read()
        if answer is aio.EOF:
            if (code := await stream.code()) is not StatusCode.OK:
                self._note_refusal(code)
                raise aio.AioRpcError(
                    code, await stream.initial_metadata(), await stream.trailing_metadata(), await stream.details()
                )
            return None
        if answer.spool_epoch != self._mark.epoch:
            raise ControllerError(Trouble.REFUSED, "the answer is about another spool")
        return answer

    def _acknowledged(self, sequence: int) -> None:
        if sequence > self._mark.acked:
            self._trouble = ""
            self._mark = replace(self._mark, acked=sequence)
            self._spool.uploaded(sequence)

    # --- what the controller refuses

    def _note_refusal(self, code: StatusCode) -> None:
        """What it did not like begins behind what is durable: all before that was committed before it said so."""
        if code in _REFUSING:
            behind, often = self._refused
            self._refused = (self._mark.acked, often + 1 if behind == self._mark.acked else 1)

    def _to_avoid(self, position: int) -> bool:
        return self._refused[0] == position and self._refused[1] >= REFUSALS_MAX

    # --- the mark

    async def _note_progress(self) -> None:
        if time.monotonic() - self._saved_at >= MARK_SECONDS:
            await self._remember()

    async def _remember(self) -> None:
        """What has been answered; of no importance but for what may go after the next start."""
        if self._mark.sure:
            with contextlib.suppress(OSError):
                await self._save(self._mark)

    async def _save(self, mark: Mark) -> None:
        saved = await self._in_thread(lambda: self._marks.save(mark))
        # Answers may have come meanwhile.
        self._mark = replace(saved, acked=max(saved.acked, self._mark.acked))
        self._saved_at = time.monotonic()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        assert self._thread is not None
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # --- what it says of itself

    @property
    def behind(self) -> int:
        """Records that are in the spool and not at the controller."""
        return max(0, self._spool.settled.sequence - self._mark.acked)

    def health(self) -> tuple[bool, str]:
        """Whether records reach the controller."""
        place = f"uploaded up to {self._mark.acked}, {self.behind} to come"
        return not self._trouble, f"{self._trouble}; {place}" if self._trouble else place

    def counters(self) -> Mapping[str, int]:
        """Since the start; records that were sent again count again."""
        return {
            "upload_records": self._records,
            "upload_bytes": self._bytes,
            "upload_lost_records": self._lost,
            "upload_streams": self._streams,
            "upload_failures": self._failures,
            "upload_waiting_records": self.behind,
        }


def _request(item: Piece | Gap) -> pb.UploadRecordsRequest:
    if isinstance(item, Piece):
        return Request(batch=pb.RecordBatch(first_sequence=item.first, count=item.count, data=item.data))
    return Request(
        dropped=pb.DroppedRange(
            first_sequence=item.first,
            last_sequence=item.last,
            kind=item.kind,
            count=0 if item.reason == OTHER_EPOCH else item.count,
            reason=item.reason,
        )
    )
