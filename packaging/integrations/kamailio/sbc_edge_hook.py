"""Kamailio asks the SBC edge agent about each call: the client of the hook, run by app_python3 in every SIP worker.

Knows Kamailio's KEMI functions and the contract `sbcedge.screening.v1`. Must not know why a call is refused. It can
only make calls wait for DEADLINE_SECONDS, and every failure lets the call pass: an agent that is away, hangs or errs.

What shapes it: app_python3 gives up the interpreter lock only while our own code waits. Threads of Python (gRPC's
among them) therefore stand still between two SIP messages, so whatever must be sent or received is waited for here,
with a deadline, and a stream that broke in between is noticed and opened again by the next call.

Settings are environment variables of the Kamailio process:
  SBC_EDGE_HOOK_ADDRESS      where the agent listens; default unix:/run/sbc-edge-agent/hook.sock
  SBC_EDGE_HOOK_DEADLINE_MS  how long a call may wait for its verdict, 1 to 1000; default 20
  SBC_EDGE_HOOK_PATIENCE_MS  how much of that an agent may use to fetch a certificate; default 0: the call goes on
                             unverified, and the certificate is there for the next one
  SBC_EDGE_PYTHON_PATH       folders with grpcio, protobuf and sbcedge, separated by ":"; default the agent's own tree
"""

import base64
import contextlib
import enum
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

PYTHON_PATH: Final = os.environ.get("SBC_EDGE_PYTHON_PATH", "/usr/lib/sbc-edge-agent/site-packages")
sys.path[:0] = [folder for folder in PYTHON_PATH.split(":") if folder]

# Importing these starts no thread and opens nothing, so it may happen before Kamailio forks; a channel may not.
import grpc  # noqa: E402  found by way of the path above

from sbcedge.screening.v1 import screening_pb2 as pb  # noqa: E402

try:
    import KSR  # type: ignore[import-not-found]  # exists only within Kamailio
except ImportError:
    KSR = None

ADDRESS: Final = os.environ.get("SBC_EDGE_HOOK_ADDRESS", "unix:/run/sbc-edge-agent/hook.sock")
# Some 50 times what an answer takes, and a tenth of what a caller would notice (100 Trying is due after 200 ms).
DEADLINE_SECONDS: Final = min(max(float(os.environ.get("SBC_EDGE_HOOK_DEADLINE_MS", "20")), 1.0), 1000.0) / 1000.0
# One lost answer is an accident, three in a row are an agent that is away.
FAILURES_TO_OPEN: Final = 3
# Then a SIP worker does not ask for so long: short at first, as a busy machine may make an agent late for a moment;
# twice as long after each try that failed, and so long may it take until an agent that is back is asked again.
FIRST_OPEN_SECONDS: Final = 0.1
LONGEST_OPEN_SECONDS: Final = 1.0
# Shorter, so that a connection was tried before each question; gRPC by itself would wait for up to 2 minutes.
RECONNECT_MS: Final = 100
# Events that wait because the agent is away; each is some 100 bytes. Beyond that the oldest calls are forgotten.
MAX_EVENTS: Final = 1024
# Transformations of Kamailio fill one buffer of 65,536 bytes (TR_BUFFER_SIZE); base64 makes four bytes of three.
MAX_MESSAGE: Final = 48_000

CHANNEL_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
)

ASK: Final = "/sbcedge.screening.v1.ScreeningService/ScreenStream"
# A SIP worker that waits handles no other call: callers whose certificates are all new and slow must not take the
# workers from everybody else, so waiting is for who asks for it. Half of the deadline is for the way there and back.
PATIENCE_KEY: Final = "sbc-edge-patience-ms"
PATIENCE_MS: Final = min(
    max(float(os.environ.get("SBC_EDGE_HOOK_PATIENCE_MS", "0")), 0.0), DEADLINE_SECONDS * 1000.0 / 2
)
REPORT: Final = "/sbcedge.screening.v1.ScreeningService/ReportEvents"
RESPONSES: Final[dict[str, Any]] = {ASK: pb.ScreenStreamResponse, REPORT: pb.ReportEventsResponse}

# Compact forms of headers that an agent may set (RFC 8224 4).
COMPACT: Final = {"identity": b"y"}

# What python_exec() leaves in $rc. Never 0, which would end the whole script; an error of Python's own is -1: pass.
PASS: Final = 1
ANSWERED: Final = 2
DROP: Final = 3


class State(enum.Enum):
    """Whether the agent is asked."""

    CLOSED = "asking"
    OPEN = "not asking"
    HALF_OPEN = "trying one call"


class Breaker:
    """Keeps calls from waiting for an agent that is away. No I/O; `now` is monotonic seconds, and may stand still.

    CLOSED asks for every call. After `failures` in a row: OPEN, which asks for none. After `first` seconds: HALF_OPEN,
    which asks for one call, and what becomes of it decides between CLOSED and OPEN, which now lasts twice as long, but
    never longer than `longest`.
    """

    def __init__(
        self,
        failures: int = FAILURES_TO_OPEN,
        first: float = FIRST_OPEN_SECONDS,
        longest: float = LONGEST_OPEN_SECONDS,
    ) -> None:
        self.state = State.CLOSED
        self._limit = failures
        self._first = first
        self._longest = longest
        self._failures = 0
        self._since = 0.0
        self._wait = first

    def allows(self, now: float) -> bool:
        """Whether to ask now. Who was told yes must report `succeeded` or `failed` before the next question."""
        if self.state is State.OPEN and now - self._since >= self._wait:
            self.state = State.HALF_OPEN
            return True
        return self.state is State.CLOSED

    def succeeded(self) -> None:
        """The agent answered in time."""
        self._failures = 0
        self._wait = self._first
        self.state = State.CLOSED

    def failed(self, now: float) -> None:
        """It did not."""
        self._failures += 1
        if self.state is State.HALF_OPEN:
            self._wait = min(2 * self._wait, self._longest)
        elif self._failures < self._limit:
            return
        self.state = State.OPEN
        self._since = now


class Broken(Exception):  # noqa: N818  a state of the stream, not a mistake
    """The stream has ended; says why, in words of gRPC."""


class Stream:
    """One stream to the agent. `call` is a stream-to-stream method of a channel; it starts at once, in threads."""

    def __init__(self, call: Callable[..., Any], metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self._out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._in: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._moved = threading.Event()
        self._call = call(self._requests(), metadata=metadata)
        threading.Thread(target=self._read, daemon=True).start()

    def _requests(self) -> Iterator[Any]:
        """What gRPC pulls from: it comes for the next one when the transport has taken the one before."""
        while (request := self._out.get()) is not None:
            yield request
            self._moved.set()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._in.put(response)
            self._in.put(Broken("the agent ended the stream"))
        except grpc.RpcError as error:
            self._in.put(Broken(f"{error.code().name}: {error.details()}"))
        self._moved.set()

    def send(self, request: Any) -> None:
        """Hand over one request. Never waits."""
        self._moved.clear()
        self._out.put(request)

    def receive(self, seconds: float) -> Any:
        """The next response. Raises Broken, and queue.Empty after so many seconds."""
        response = self._in.get(timeout=max(seconds, 0.0))
        if isinstance(response, Broken):
            raise response
        return response

    def wait_sent(self, seconds: float) -> None:
        """Wait until the request is on its way. Raises Broken, and queue.Empty after so many seconds."""
        if not self._moved.wait(seconds):
            raise queue.Empty
        with contextlib.suppress(queue.Empty):
            self.receive(0.0)

    def close(self) -> None:
        """Let go of the agent and of the threads."""
        self._out.put(None)
        self._call.cancel()


class Link:
    """What one process has to do with the agent. Made after the fork and used by one thread.

    `ask` and `report` never raise for anything that the agent or the network does, and return within `deadline`
    seconds plus what the scheduler adds.
    """

    def __init__(
        self,
        address: str = ADDRESS,
        deadline: float = DEADLINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.breaker = Breaker()
        self.events_lost = 0
        self._address = address
        self._deadline = deadline
        self._clock = clock
        self._warn = warn
        self._away = False
        self._id = 0
        self._events: list[Any] = []
        self._channel: grpc.Channel | None = None
        self._streams: dict[str, Stream] = {}

    def open(self) -> None:
        """Connect in advance, so that the first call need not wait for it."""
        self._stream(ASK)

    def close(self) -> None:
        """Let go of everything."""
        for method in tuple(self._streams):
            self._drop(method)
        if self._channel:
            self._channel.close()
            self._channel = None

    def ask(self, request: Any) -> Any | None:
        """The agent's response to a ScreenRequest, or None: no verdict, let the call pass."""
        if not self.breaker.allows(self._clock()):
            return None
        self._id += 1
        request.id = self._id
        try:
            response = self._exchange(ASK, pb.ScreenStreamRequest(requests=[request]), self._answer)
        except (Broken, queue.Empty) as error:
            self._failed(ASK, error)
            return None
        self.breaker.succeeded()
        if self._away:
            self._away = False
            self._warn("agent is back, calls are screened")
        return response

    def report(self, event: Any) -> bool:
        """Tell the agent one CallEvent; False if it is kept until the agent is back."""
        self._events.append(event)
        if len(self._events) > MAX_EVENTS:
            del self._events[0]
            self.events_lost += 1
        # An agent that hangs takes events for a while: only an answer proves that it is there.
        if self.breaker.state is not State.CLOSED:
            return False
        try:
            self._exchange(REPORT, pb.ReportEventsRequest(events=self._events), self._handed_over)
        except (Broken, queue.Empty) as error:
            self._failed(REPORT, error)
            return False
        self._events.clear()
        return True

    def _exchange(self, method: str, request: Any, wait: Callable[[Stream, float], Any]) -> Any:
        """Send one request and wait for what it is good for. Raises Broken and queue.Empty."""
        until = self._clock() + self._deadline
        try:
            return self._send(method, request, wait, until)
        except Broken:
            # Perhaps long ago, while this worker was idle and could not see it; the agent may be back since.
            self._drop(method)
            return self._send(method, request, wait, until)

    def _send(self, method: str, request: Any, wait: Callable[[Stream, float], Any], until: float) -> Any:
        stream = self._stream(method)
        stream.send(request)
        return wait(stream, until)

    def _answer(self, stream: Stream, until: float) -> Any:
        """The response to the latest question; others belong to questions that were given up."""
        while True:
            for response in stream.receive(until - self._clock()).responses:
                if response.id == self._id:
                    return response

    def _handed_over(self, stream: Stream, until: float) -> None:
        stream.wait_sent(until - self._clock())

    def _stream(self, method: str) -> Stream:
        if method not in self._streams:
            self._channel = self._channel or grpc.insecure_channel(self._address, options=CHANNEL_OPTIONS)
            # ReportEvents has one response, at its end: on the wire that is a stream like any other.
            self._streams[method] = Stream(
                self._channel.stream_stream(
                    method,
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=RESPONSES[method].FromString,
                ),
                ((PATIENCE_KEY, f"{PATIENCE_MS:.0f}"),),
            )
        return self._streams[method]

    def _drop(self, method: str) -> None:
        if stream := self._streams.pop(method, None):
            stream.close()

    def _failed(self, method: str, error: Exception) -> None:
        self._drop(method)
        self.breaker.failed(self._clock())
        if self.breaker.state is State.OPEN and not self._away:
            self._away = True
            why = str(error) or f"nothing within {self._deadline * 1000:g} ms"
            self._warn(f"agent away, calls pass without being screened: {why}")


class Hook:
    """The functions that kamailio.cfg calls by python_exec(). One object, made before the fork, copied by it."""

    def __init__(self) -> None:
        self._link: Link | None = None
        self._kinds: set[type[BaseException]] = set()

    def child_init(self, rank: int) -> int:
        """Called by app_python3 in each process; those with a rank above 0 handle SIP messages."""
        if rank > 0:
            self._agent().open()
        return 0

    def screen(self, _message: Any, trunk: str = "") -> int:
        """Screen the INVITE at hand. PASS, ANSWERED or DROP; with the last two nothing is left to do."""
        try:
            request = _request(trunk)
            response = self._agent().ask(request)
            return PASS if response is None else _apply(response, request.sip_message)
        except Exception as error:  # whatever it is: the call passes
            return self._wrong(error)

    def answered(self, _message: Any) -> int:
        """Report the 2xx at hand, to an INVITE."""
        return self._report(lambda: {"answered": pb.Answered()})

    def ended(self, _message: Any, code: str = "") -> int:
        """Report that a call is over: with the final response `code` to its INVITE, or with the BYE at hand."""
        if code.isdigit():
            return self._report(lambda: {"ended": pb.Ended(sip_code=int(code))})
        # From and To of a BYE depend on who sends it; the agent knows who called.
        return self._report(lambda: {"sip_message": _message_at_hand()})

    def _report(self, what: Callable[[], dict[str, Any]]) -> int:
        try:
            call_id, from_tag, to_tag = (_text(name) for name in ("$ci", "$ft", "$tt"))
            at = time.time_ns() // 1000
            event = pb.CallEvent(at_unix_micros=at, call_id=call_id, from_tag=from_tag, to_tag=to_tag, **what())
            self._agent().report(event)
        except Exception as error:  # whatever it is: the call goes on
            return self._wrong(error)
        return PASS

    def _agent(self) -> Link:
        if self._link is None:
            self._link = Link(warn=lambda words: KSR.warn(f"sbc-edge: {words}\n"))
        return self._link

    def _wrong(self, error: Exception) -> int:
        """Log each kind of failure once per process."""
        if type(error) not in self._kinds:
            self._kinds.add(type(error))
            KSR.err(f"sbc-edge: the call passes: {error!r}\n")
        return PASS


def _request(trunk: str) -> Any:
    """The message at hand as a ScreenRequest."""
    transport = _text("$proto")
    return pb.ScreenRequest(
        sip_message=_message_at_hand(),
        source_address=_text("$si").strip("[]"),
        source_port=int(_text("$sp")),
        local_address=_text("$Ri").strip("[]"),
        local_port=int(_text("$Rp")),
        transport="ws" if transport == "wss" else transport,
        trunk=trunk,
    )


def _message_at_hand() -> bytes:
    """The message as received. Base64 because KEMI hands out text and SIP need not be UTF-8."""
    if int(_text("$ml")) <= MAX_MESSAGE:
        return base64.b64decode(_text("$(mb{s.encode.base64})"))
    # What is screened stands in the header, and a body that is cut off is no reason not to look at it.
    return base64.b64decode(_text(f"$(mb{{s.substr,0,{MAX_MESSAGE}}}{{s.encode.base64}})"))


def _text(variable: str) -> str:
    """The value of a pseudo-variable; "" if it has none."""
    value = KSR.pv.get(variable)
    return "" if value is None else str(value)


def _apply(response: Any, message: bytes) -> int:
    """Do what the agent decided on the message."""
    if response.decision == pb.DECISION_DROP:
        return DROP
    if response.decision == pb.DECISION_REFUSE:
        for row in [_row(header) for header in response.answer.headers]:
            KSR.hdr.append_to_reply(row)
        KSR.sl.send_reply(response.answer.code, response.answer.phrase)
        return ANSWERED
    for name in dict.fromkeys(header.name for header in response.egress_headers):
        _replace(name, [header for header in response.egress_headers if header.name == name], message)
    if response.verstat:
        KSR.pv.sets("$avp(sbc_edge_verstat)", response.verstat)
    if response.response_headers:
        KSR.pv.sets("$avp(sbc_edge_reply)", "".join(_row(header) for header in response.response_headers))
    return PASS


def _replace(name: str, headers: list[Any], message: bytes) -> None:
    """Have the outgoing message carry these rows under this name. What it carries already is not touched."""
    carried = _values(message, name)
    added = headers[len(carried) :]
    if [header.value for header in headers[: len(carried)]] != carried:
        added = headers
    rows = [_row(header) for header in added]
    if added is headers and carried:
        KSR.hdr.remove(name)
    for row in rows:
        KSR.hdr.append(row)


def _values(message: bytes, name: str) -> list[bytes]:
    """The values of one header as received, folds included (RFC 3261 7.3.1)."""
    names = {name.lower().encode(), COMPACT.get(name.lower(), b"")}
    rows: list[bytes] = []
    for line in message.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        if line[:1] in {b" ", b"\t"} and rows:
            rows[-1] += b"\r\n" + line
        else:
            rows.append(line)
    parts = [row.partition(b":") for row in rows]
    return [value.strip(b" \t\r\n") for key, _, value in parts if key.strip(b" \t").lower() in names]


def _row(header: Any) -> str:
    """One header row. Raises ValueError for one that would become several, or no text."""
    row = f"{header.name}: {header.value.decode()}"
    if "\r" in row or "\n" in row:
        raise ValueError(f"header {header.name!r} has a line break in it")
    return f"{row}\r\n"


def mod_init() -> Hook:
    """What app_python3 calls first, before the fork."""
    return Hook()
