"""Header blocks: read as hpack reads them, remembered while the table stays, and bounded."""

from contextlib import suppress

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from agent.http2.errors import Code, ConnectionFault
from agent.http2.headers import KNOWN_MAX, BlockReader, HeaderList, OversizedListFault, block
from agent.http2.limits import LIST_BYTES

REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a/b"), (b"te", b"trailers"), (b"x", b"1")]
HEADERS = st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.binary(max_size=300)), max_size=8)


class Counting:
    """Understands a list as itself, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.asked = 0
        self.reader = BlockReader(self.understand)

    def understand(self, headers: HeaderList) -> HeaderList:
        self.asked += 1
        return headers


@given(HEADERS)
def test_what_is_written_is_what_others_read_and_changes_no_table(headers: HeaderList) -> None:
    decoder = Decoder(1 << 20)
    assert [tuple(pair) for pair in decoder.decode(block(headers), raw=True)] == headers
    assert not decoder.header_table.dynamic_entries


def test_what_the_static_table_has_is_short() -> None:
    assert block([(b":status", b"200")]) == b"\x88"
    assert len(block([(b"content-type", b"application/grpc")])) == 2 + 1 + len("application/grpc")


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_a_known_block_says_what_hpack_says_whatever_came_between(order: list[int]) -> None:
    requests = [[*REQUEST, (b"n", b"%d" % (n // 2)), (b"long", b"v" * 600 * n)] for n in range(6)]
    encoder, counting = Encoder(), Counting()
    for n in order:
        encoded = encoder.encode(requests[n], huffman=bool(n % 2))
        assert counting.reader.read(encoded) == requests[n]


def test_a_warm_connection_decodes_nothing() -> None:
    encoder, counting = Encoder(), Counting()
    for _ in range(100):
        assert counting.reader.read(encoder.encode(REQUEST)) == REQUEST
    assert counting.asked == 2, "the first fills the table, the second is remembered"


def test_what_is_remembered_is_bounded() -> None:
    counting = Counting()
    for n in range(3 * KNOWN_MAX):
        counting.reader.read(block([(b"x", b"%d" % n)]))
    assert len(counting.reader._known) == KNOWN_MAX


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_any_bytes_are_a_block_or_a_fault_of_the_connection(blocks: list[bytes]) -> None:
    reader = Counting().reader
    with suppress(ConnectionFault):
        for each in blocks:
            reader.read(each)


def test_small_references_to_a_long_entry_are_stopped_at_the_bound() -> None:
    reader = Counting().reader
    reader.read(b"\x40\x01x" + b"\x7f\xa1\x1e" + b"v" * 4000)  # into the table, 4,033 bytes
    with pytest.raises(OversizedListFault) as fault:
        reader.read(b"\xbe" * 1000)
    assert fault.value.code is Code.ENHANCE_YOUR_CALM
    assert reader.read(b"\xbe" * (LIST_BYTES // 4100)) == [(b"x", b"v" * 4000)] * (LIST_BYTES // 4100)


@pytest.mark.parametrize(
    "block_bytes",
    [b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80", b"\xbf", b"\x3f\xe2\x1f", b"\x82\x20", b"\x20" * 3,
     b"\x40\x05ab", b"\x00\x84\xff\xff\xff\xff\x01a"],
    ids=["number", "index-0", "no-such-entry", "table-too-big", "late-resize", "thrice-resized", "cut", "huffman"],
)  # fmt: skip
def test_what_hpack_forbids_ends_the_connection(block_bytes: bytes) -> None:
    with pytest.raises(ConnectionFault) as fault:
        Counting().reader.read(block_bytes)
    assert fault.value.code is Code.COMPRESSION_ERROR
