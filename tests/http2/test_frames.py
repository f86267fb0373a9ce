"""Bytes become frames however they are cut, and nothing is kept beyond one frame."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.http2 import frames
from agent.http2.errors import Code, ConnectionFault, StreamFault
from agent.http2.frames import Frame, FrameReader, Kind

FRAMES = st.lists(
    st.tuples(st.sampled_from(Kind), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=40)), max_size=8
)


@given(FRAMES, st.data())
def test_frames_are_the_same_however_their_bytes_are_cut(sent: list[Frame], cuts: st.DataObject) -> None:
    data = b"".join(frames.frame(Kind(kind), flags, number, payload) for kind, flags, number, payload in sent)
    reader, got = FrameReader(16_384), []
    resets: set[int] = set()
    while data:
        size = cuts.draw(st.integers(1, len(data)))
        came, reset = reader.read(data[:size])
        got += came
        resets |= reset
        data = data[size:]
    assert got == [tuple(frame) for frame in sent]
    assert resets == {number for kind, _, number, _ in sent if kind is Kind.RST_STREAM}
    assert reader.held == 0


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_any_bytes_are_frames_or_too_long_and_little_is_kept(chunks: list[bytes]) -> None:
    reader = FrameReader(64)
    with suppress(ConnectionFault):
        for chunk in chunks:
            reader.read(chunk)
            assert reader.held < 64 + frames.HEAD_BYTES


def test_the_longest_payload_is_taken_and_one_byte_more_is_not() -> None:
    assert len(FrameReader(100).read(frames.frame(Kind.DATA, 0, 1, bytes(100)))[0]) == 1
    with pytest.raises(ConnectionFault) as fault:
        FrameReader(100).read(frames.frame(Kind.DATA, 0, 1, bytes(101))[:9])
    assert fault.value.code is Code.FRAME_SIZE_ERROR


def test_the_reserved_bit_of_a_stream_is_ignored() -> None:
    ((_, _, number, _),) = FrameReader(100).read(b"\0\0\0\x06\0\x80\0\0\x05")[0]
    assert number == 5


def test_a_frame_that_comes_drop_by_drop_is_whole_in_the_end() -> None:
    reader = FrameReader(70_000)
    whole = frames.frame(Kind.DATA, 0, 1, bytes(65_536))
    got = [frame for n in range(len(whole)) for frame in reader.read(whole[n : n + 1])[0]]
    assert got == [(Kind.DATA, 0, 1, bytes(65_536))]


@pytest.mark.parametrize(("payload", "content"), [(b"\0abc", b"abc"), (b"\x02abc", b"a"), (b"\x03abc", b"")])
def test_padding_is_no_content(payload: bytes, content: bytes) -> None:
    assert frames.unpadded(frames.PADDED, payload) == content


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x04abc", b"\xff"])
def test_more_padding_than_payload_is_a_fault(payload: bytes) -> None:
    with pytest.raises(ConnectionFault):
        frames.unpadded(frames.PADDED, payload)


def test_priorities_are_checked_and_ignored() -> None:
    assert frames.block_of(frames.PRIORITISED, 3, b"\0\0\0\x01\x10block") == b"block"
    assert frames.block_of(frames.PRIORITISED | frames.PADDED, 3, b"\x01\0\0\0\x01\x10block-") == b"block"
    for payload in (b"\0\0\0\x03\x10block", b"\0\0\0"):
        with pytest.raises(ConnectionFault):
            frames.block_of(frames.PRIORITISED, 3, payload)
    with pytest.raises(StreamFault):
        frames.check_priority(3, b"\x80\0\0\x03\x10")
    with pytest.raises(StreamFault):
        frames.check_priority(3, b"\0\0\0\x01")


def test_settings_and_numbers_have_their_lengths() -> None:
    assert frames.settings_of(frames.settings({4: 65_535, 5: 16_384})[9:]) == [(4, 65_535), (5, 16_384)]
    for payload in (b"12345", bytes(6 * (frames.SETTINGS_MAX + 1))):
        with pytest.raises(ConnectionFault):
            frames.settings_of(payload)
    for payload in (b"", b"123", b"12345"):
        with pytest.raises(ConnectionFault):
            frames.word_of(payload)
