"""The same connection with a client that is not ours (the h2 library), and with one that sends whatever it likes."""

import random

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.http2 import frames
from agent.http2.errors import Code
from agent.http2.frames import Kind
from agent.http2.headers import block
from agent.http2.limits import Limits
from tests.http2.client import ASK, DONE, HEAD, Heard, Served, data, headers

REQUEST = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/x"), ("long", "v" * 200)]


class H2Client:
    """The h2 library's client end of a connection of ours."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.served = Served(limits, greet=False)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.bodies: dict[int, bytes] = {}
        self.done: set[int] = set()
        self.exchange()

    def exchange(self) -> None:
        """Carry bytes both ways until nobody has any."""
        connection = self.served.connection
        while True:
            sent = self.h2.data_to_send()
            connection.receive(sent)
            connection.work(0.0)
            answer = connection.take()
            if not (sent or answer):
                return
            for event in self.h2.receive_data(answer):
                if isinstance(event, h2.events.DataReceived):
                    assert event.data is not None
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.done.add(event.stream_id)

    def ask(self, body: bytes) -> Heard:
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, REQUEST)
        while body:
            size = min(len(body), self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            self.h2.send_data(number, body[:size])
            body = body[size:]
            self.exchange()
            stream = self.served.heard[number].stream
            self.served.connection.credit(stream, size)
            self.exchange()
        self.h2.end_stream(number)
        self.exchange()
        return self.served.heard[number]


def test_another_implementation_asks_and_is_answered() -> None:
    client = H2Client()
    asked = [client.ask(b"%d" % n * 1000) for n in range(20)]
    for n, heard in enumerate(asked):
        assert (heard.body, heard.ended) == (b"%d" % n * 1000, True)
        client.served.connection.respond(heard.stream, HEAD, b"answer %d" % n, DONE)
    client.exchange()
    assert client.bodies == {2 * n + 1: b"answer %d" % n for n in range(20)}
    assert client.done == set(client.bodies)


def test_bodies_of_megabytes_go_both_ways_through_both_flow_controls() -> None:
    client = H2Client(Limits(stream_window=100_000, connection_window=200_000))
    body = random.Random(1).randbytes(1_000_000)
    heard = client.ask(body)
    assert heard.body == body
    connection = client.served.connection
    connection.begin(heard.stream, HEAD)
    connection.send(heard.stream, body)
    connection.end(heard.stream, DONE)
    client.exchange()
    assert client.bodies[1] == body
    assert client.done == {1}


def test_another_implementations_settings_and_pings_and_good_bye() -> None:
    client = H2Client()
    client.h2.update_settings(
        {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 5, h2.settings.SettingCodes.ENABLE_PUSH: 0}
    )
    client.h2.ping(b"12345678")
    client.exchange()
    heard = client.ask(b"x")
    client.served.connection.respond(heard.stream, HEAD, b"more than five bytes", DONE)
    client.exchange()
    assert client.bodies == {1: b"more than five bytes"}
    client.h2.close_connection()
    client.exchange()
    assert not client.served.connection.ended, "it ends when the client closes the transport"


def test_a_client_that_cancels_is_understood() -> None:
    client = H2Client()
    heard = client.ask(b"x")
    client.h2.reset_stream(1, 8)
    client.exchange()
    assert heard.was_reset is not None
    assert client.ask(b"y").body == b"y"


# -- whatever a client likes ----------------------------------------------------------------------------------------

NUMBERS = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 7, 2**31 - 1])
BLOCKS = st.sampled_from(
    [ASK, ASK[:5], ASK[5:], block([(b"a", b"1")]), b"\x82\xbe", b"\x40\x01a\x01b", b"\x20"]
) | st.binary(max_size=30)
WORDS = st.sampled_from([bytes(4), b"\0\0\0\x08", b"\x7f\xff\xff\xff", b"\0\1\0\0"]) | st.binary(max_size=6)
PAYLOADS = {
    Kind.DATA: st.binary(max_size=50) | st.just(bytes(16_384)),
    Kind.HEADERS: BLOCKS,
    Kind.CONTINUATION: BLOCKS,
    Kind.RST_STREAM: WORDS,
    Kind.WINDOW_UPDATE: WORDS,
    Kind.SETTINGS: st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0, 1, 100, 16_384, 2**31 - 1, 2**31]))).map(
        lambda pairs: frames.settings(dict(pairs))[9:]
    ),
    Kind.PING: st.just(bytes(8)) | st.binary(max_size=9),
}
FLAGS = st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D, 255])
SAID = st.one_of(
    *[
        st.builds(frames.frame, st.just(kind), FLAGS, NUMBERS, PAYLOADS.get(kind, st.binary(max_size=10)))
        for kind in Kind
    ],
    st.builds(headers, NUMBERS, BLOCKS, st.booleans()),
    st.builds(data, NUMBERS, st.binary(max_size=50), st.booleans()),
)
ACTS = st.sampled_from(["respond", "send", "end", "reset", "credit", "pause", "resume", "leave", ""])


def act(served: Served, what: str) -> None:
    """Something that the server's side does meanwhile, on each of its streams that can still be spoken on."""
    connection = served.connection
    connection.out.paused = what == "pause" or (connection.out.paused and what != "resume")
    if what == "leave":
        connection.leave()
    for stream in list(connection.streams.values()):
        if stream.trailers is not None:
            continue
        match what:
            case "respond" if stream.writable:
                connection.respond(stream, HEAD, bytes(3000), DONE)
            case "send" if stream.writable:
                connection.send(stream, bytes(30_000))
            case "end":
                connection.end(stream, DONE)
            case "reset":
                connection.reset(stream, Code.CANCEL)
            case "credit":
                connection.credit(stream, 10)


@settings(max_examples=300)
@given(st.lists(st.tuples(SAID, ACTS), max_size=40))
def test_whatever_a_client_sends_ends_at_most_his_connection(said: list[tuple[bytes, str]]) -> None:
    served = Served(Limits(streams=5, stream_window=20_000, connection_window=70_000))
    connection = served.connection
    for message, what in said:
        served.say(message)
        assert len(connection.streams) <= 5
        assert connection.held < 70_000
        assert all(len(stream.waiting) <= 30_000 for stream in connection.streams.values())
        if connection.ended:
            assert not connection.streams
            break
        act(served, what)
    for heard in served.heard.values():
        assert heard.was_reset is None or heard.stream.number not in connection.streams


@given(st.lists(st.binary(max_size=200), max_size=10), st.booleans())
def test_arbitrary_bytes_end_at_most_their_connection(chunks: list[bytes], greeted: bool) -> None:
    served = Served(greet=greeted)
    for chunk in chunks:
        served.say(chunk)
        assert served.connection.held < 70_000
