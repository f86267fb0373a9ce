"""Capture files: every variant of the two formats, and every kind of damage."""

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from agent.ingress.capture_file import MAX_BLOCK, MAX_PACKET, CaptureFile, Packet
from agent.model import ConfigError
from tests.ingress.frames import block, enhanced, ethernet, interface, ipv4, option, pcap, section, udp

FRAMES = [ethernet(ipv4(udp(b"%d" % i * (i + 1)))) for i in range(5)]


def read(path: Path, content: bytes) -> tuple[list[Packet], CaptureFile]:
    path.write_bytes(content)
    capture = CaptureFile(path)
    return list(capture.packets()), capture


@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_pcap_is_read_in_both_byte_orders_and_precisions_plain_and_gzipped(
    tmp_path: Path, endian: str, nano: bool, packed: bool
) -> None:
    content = pcap(FRAMES, endian=endian, nano=nano, start=1_700_000_000.25)
    packets, capture = read(tmp_path / "a", gzip.compress(content) if packed else content)
    assert [p.data for p in packets] == FRAMES
    expected = [1_700_000_000.25 + i / 1000 for i in range(5)]
    assert [p.when for p in packets] == pytest.approx(expected, abs=1e-6)
    assert {p.linktype for p in packets} == {1}
    assert packets[0].offset == 24
    assert packets[1].offset == 24 + 16 + len(FRAMES[0])
    assert capture.damage is None


@pytest.mark.parametrize("endian", "<>")
@pytest.mark.parametrize("packed", [False, True])
def test_pcapng_is_read_in_both_byte_orders_plain_and_gzipped(tmp_path: Path, endian: str, packed: bool) -> None:
    content = (
        section(endian)
        + interface(endian=endian)
        + b"".join(enhanced(frame, 1_700_000_000_250_000 + i, endian=endian) for i, frame in enumerate(FRAMES))
    )
    packets, capture = read(tmp_path / "a", gzip.compress(content) if packed else content)
    assert [p.data for p in packets] == FRAMES
    assert packets[0].when == pytest.approx(1_700_000_000.25, abs=1e-6)
    assert capture.damage is None


def test_pcapng_interfaces_have_their_own_link_type_resolution_and_time_offset(tmp_path: Path) -> None:
    content = (
        section()
        + interface(1)
        + interface(101, option(9, b"\x09"))
        + interface(113, option(9, b"\x8a"))
        + interface(1, option(14, struct.pack("<q", 3600)))
        + enhanced(b"micro", 5_000_000, 0)
        + enhanced(b"nano", 6_000_000_000, 1)
        + enhanced(b"binary", 7 << 10, 2)
        + enhanced(b"shifted", 8_000_000, 3)
    )
    packets, _ = read(tmp_path / "a", content)
    assert [(p.when, p.linktype, p.interface) for p in packets] == [(5, 1, 0), (6, 101, 1), (7, 113, 2), (3608, 1, 3)]


def test_pcapng_interface_numbers_begin_again_in_every_section(tmp_path: Path) -> None:
    content = (
        section()
        + interface(1)
        + enhanced(b"first", 1_000_000)
        + section(">")
        + interface(101, endian=">")
        + enhanced(b"second", 2_000_000, endian=">")
    )
    packets, capture = read(tmp_path / "a", content)
    assert [(p.data, p.linktype) for p in packets] == [(b"first", 1), (b"second", 101)]
    assert capture.damage is None


def test_pcapng_simple_and_obsolete_packet_blocks_are_read_and_unknown_blocks_skipped(tmp_path: Path) -> None:
    obsolete = block(2, struct.pack("<HHIIII", 0, 0, 0, 9_000_000, 3, 3) + b"old")
    content = (
        section()
        + interface(1, snaplen=0)
        + block(5, bytes(16))
        + obsolete
        + block(3, struct.pack("<I", 6) + b"simple")
        + block(0x7777, bytes(40))
    )
    packets, capture = read(tmp_path / "a", content)
    assert [(p.data, p.when) for p in packets] == [(b"old", 9), (b"simple", 9)]  # no time of its own
    assert capture.damage is None


def test_packet_cut_by_the_snap_length_keeps_its_length_on_the_wire(tmp_path: Path) -> None:
    packets, _ = read(tmp_path / "a", pcap(FRAMES, snaplen=20))
    assert [(len(p.data), p.wire_length) for p in packets] == [(20, len(f)) for f in FRAMES]


PCAP = pcap(FRAMES)
PCAPNG = section() + interface() + b"".join(enhanced(f, i) for i, f in enumerate(FRAMES))


@pytest.mark.parametrize(("content", "header"), [(PCAP, 24), (PCAPNG, 28)], ids=["pcap", "pcapng"])
def test_capture_cut_anywhere_gives_the_packets_before_the_cut_and_the_offset_of_the_broken_record(
    tmp_path: Path, content: bytes, header: int
) -> None:
    whole, _ = read(tmp_path / "whole", content)
    ends = [p.offset for p in whole[1:]] + [len(content)]
    for cut in range(header, len(content)):
        packets, capture = read(tmp_path / "cut", content[:cut])
        complete = sum(end <= cut for end in ends)
        assert packets == whole[:complete], cut
        boundary = cut in (header, *ends) or (header == 28 and cut == 28 + 20)  # behind the interface block
        assert (capture.damage is None) == boundary, cut
        if capture.damage is not None:
            assert max(end for end in [header, *ends] if end <= cut) <= capture.damage.offset <= cut
            assert "cut off" in capture.damage.reason


def test_gzip_cut_anywhere_gives_a_prefix_and_a_warning(tmp_path: Path) -> None:
    whole, _ = read(tmp_path / "whole", PCAP)
    packed = gzip.compress(pcap([os.urandom(200) for _ in range(20)]))
    whole, _ = read(tmp_path / "whole", packed)
    for cut in range(600, len(packed), 37):
        packets, capture = read(tmp_path / "cut", packed[:cut])
        assert packets == whole[: len(packets)]
        assert capture.damage is not None


def test_damaged_gzip_data_is_a_warning_and_not_a_crash(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(pcap([os.urandom(200) for _ in range(2000)])))
    packed[len(packed) // 2] ^= 0xFF
    packets, capture = read(tmp_path / "a", bytes(packed))
    assert 0 < len(packets) <= 2000
    assert capture.damage is not None


@pytest.mark.parametrize("claimed", [MAX_PACKET + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_pcap_record_with_an_absurd_length_stops_the_reading_there(tmp_path: Path, claimed: int) -> None:
    content = PCAP + struct.pack("<IIII", 1, 0, claimed, claimed) + bytes(MAX_PACKET + 4096)
    packets, capture = read(tmp_path / "a", content)
    assert [p.data for p in packets] == FRAMES
    assert capture.damage is not None
    assert capture.damage.offset == len(PCAP)
    assert "corrupt" in capture.damage.reason


@pytest.mark.parametrize("claimed", [0, 8, 13, MAX_BLOCK + 1, 0xFFFFFFFC])
def test_pcapng_block_with_an_absurd_length_stops_the_reading_there(tmp_path: Path, claimed: int) -> None:
    content = PCAPNG + struct.pack("<II", 6, claimed) + bytes(64)
    packets, capture = read(tmp_path / "a", content)
    assert [p.data for p in packets] == FRAMES
    assert capture.damage is not None
    assert capture.damage.offset == len(PCAPNG)


@pytest.mark.parametrize(
    "broken",
    [
        enhanced(b"data", 1, number=7),  # an interface that nobody described
        block(6, b"short"),
        block(1, b"x"),
        block(2, b"short"),
        PCAPNG[:-4] + b"\1\0\0\0",  # the two lengths of a block differ
        struct.pack("<III", 0x0A0D0D0A, 28, 0x99999999) + bytes(16),  # a section in no byte order
    ],
    ids=["interface", "packet", "interface-block", "old-packet", "lengths", "section"],
)
def test_pcapng_block_that_contradicts_itself_stops_the_reading_there(tmp_path: Path, broken: bytes) -> None:
    packets, capture = read(tmp_path / "a", PCAPNG + broken)
    assert [p.data for p in packets][:5] == FRAMES
    assert capture.damage is not None
    assert capture.damage.offset >= len(PCAPNG)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\xa1", "not a capture"),
        (b"INVITE sip:x@example.com SIP/2.0\r\n\r\n", "not a capture"),
        (b"\xa1\xb2\xc3\xd4", "too short"),
        (b"\xa1\xb2\xc3\xd4" + bytes(19), "too short"),
        (PCAPNG[:20], "too short"),
        (gzip.compress(b""), "not a capture"),
        (gzip.compress(b"hello"), "not a capture"),
        (b"\x1f\x8b\x08", "cannot be read"),
        (b"\x1f\x8bgarbage that is no gzip member", "cannot be read"),
    ],
)
def test_file_that_is_no_capture_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as refused:
        list(CaptureFile(path).packets())
    assert refused.value.field == str(path)


def test_missing_file_and_directory_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        list(CaptureFile(tmp_path / "absent.pcap").packets())
    with pytest.raises(ConfigError) as refused:
        list(CaptureFile(tmp_path).packets())
    assert str(refused.value) == f"{tmp_path}: is a directory, not a capture file"
    with pytest.raises(ConfigError, match="null"):
        list(CaptureFile(Path("a\0b")).packets())


def test_missing_scapy_names_the_package_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scapy.utils", None)
    (tmp_path / "a").write_bytes(PCAP)
    with pytest.raises(ConfigError, match=r"pip install 'sbc-edge-agent\[replay\]'"):
        list(CaptureFile(tmp_path / "a").packets())


def test_position_runs_to_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(pcap([os.urandom(1000) for _ in range(3000)])))
    capture = CaptureFile(path)
    positions = [capture.position for _ in capture.packets()]
    assert positions == sorted(positions)
    assert capture.size == path.stat().st_size
    assert positions[0] <= capture.size
    assert positions[-1] > capture.size * 0.5


def test_reading_says_nothing_by_itself(tmp_path: Path) -> None:
    """scapy complains of records and, at import, of the machine; a user's terminal must stay clean."""
    path = tmp_path / "a"
    path.write_bytes(PCAPNG + block(6, b"short"))
    code = (
        "import sys; from pathlib import Path; from agent.ingress.capture_file import CaptureFile;"
        "list(CaptureFile(Path(sys.argv[1])).packets())"
    )
    command = [sys.executable, "-W", "always", "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
