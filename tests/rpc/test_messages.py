"""Messages are found in bodies however these are cut, unpacked, and bounded both ways."""

import gzip
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rpc.messages import MessageReader, framed
from agent.rpc.status import RpcError, Status, percent_encoded

MOST = 1000


def packed(message: bytes, flag: int = 1) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


@given(st.lists(st.binary(max_size=60), max_size=8), st.data())
def test_messages_are_the_same_however_their_bytes_are_cut(messages: list[bytes], cuts: st.DataObject) -> None:
    data = b"".join(map(framed, messages))
    reader, got = MessageReader(MOST, b"identity"), []
    while data:
        size = cuts.draw(st.integers(1, len(data)))
        got += reader.read(data[:size])
        data = data[size:]
    assert got == messages
    assert reader.held == 0


@given(st.lists(st.binary(max_size=60), max_size=12), st.sampled_from([b"identity", b"gzip", b"deflate", b"x"]))
def test_any_bytes_are_messages_or_end_the_call(chunks: list[bytes], encoding: bytes) -> None:
    reader = MessageReader(100, encoding)
    with suppress(RpcError):
        for chunk in chunks:
            assert all(len(message) <= 100 for message in reader.read(chunk))
            assert reader.held < 105


@pytest.mark.parametrize(("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_packed_messages_are_unpacked_and_plain_ones_between_them_are_not(encoding: bytes, pack: object) -> None:
    assert callable(pack)
    reader = MessageReader(MOST, encoding)
    assert reader.read(packed(pack(b"a" * MOST)) + framed(b"plain") + packed(pack(b""))) == [b"a" * MOST, b"plain", b""]


@pytest.mark.parametrize(
    ("data", "encoding", "status"),
    [
        (b"\0" + (MOST + 1).to_bytes(4, "big"), b"identity", Status.RESOURCE_EXHAUSTED),
        (packed(gzip.compress(bytes(MOST + 1))), b"gzip", Status.RESOURCE_EXHAUSTED),
        (packed(gzip.compress(bytes(500_000))), b"gzip", Status.RESOURCE_EXHAUSTED),
        (packed(gzip.compress(b"x")), b"identity", Status.INTERNAL),
        (packed(b"no gzip"), b"gzip", Status.INTERNAL),
        (packed(gzip.compress(b"x")[:-4]), b"gzip", Status.INTERNAL),
        (packed(gzip.compress(b"x"), flag=2), b"gzip", Status.INTERNAL),
    ],
    ids=["too-long", "unpacks-too-long", "bomb", "not-said", "not-packed", "cut", "flag"],
)
def test_what_cannot_be_read_ends_the_call_with_its_status(data: bytes, encoding: bytes, status: Status) -> None:
    with pytest.raises(RpcError) as refused:
        MessageReader(MOST, encoding).read(data)
    assert refused.value.status is status


def test_a_message_of_a_status_is_ascii_on_the_wire() -> None:
    assert percent_encoded("100 % é\n") == b"100 %25 %C3%A9%0A"
    assert len(percent_encoded("x" * 10_000)) < 2000
