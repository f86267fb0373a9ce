"""The program in front of the guard's table, run by the kernel on packets that we make, against a plain reference."""

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.kernel import ebpf_guard as guard
from agent.kernel.ebpf import Attach, Map, Program, supported
from agent.kernel.settings import KernelSettings
from tests.kernel.ebpf_reference import SOURCE4, SOURCE6, STATION, Frame, is_excess

pytestmark = pytest.mark.kernel

# A second of the bucket is a second of time: what a test sets does not change while it runs.
SETTINGS = KernelSettings(ports=(5060,), flood_rate=1, flood_burst=600)
SECOND = guard.SECOND
KEYS = {4: guard.address_key(SOURCE4), 6: SOURCE6}
BUCKETS = {4: bytes.fromhex("0000ffff") + SOURCE4, 6: SOURCE6[:8]}
SHORTEST = 54  # the kernel runs no program on less than the header that the type of the frame promises
PREFIXES = {4: bytes(4 * [0]), 6: bytes(16)}


def _clock(seconds: float) -> int:
    """What the kernel's clock shows in so many seconds; a machine may have been up for less than it is to go back."""
    return max(0, time.monotonic_ns() + round(seconds * SECOND))


class Loaded:
    """The program of one way, and its maps."""

    def __init__(self, way: Attach, wanted: KernelSettings) -> None:
        self.way = way
        self.maps = {spec.name: Map.create(spec) for spec in guard.guard_maps(wanted)}
        for key in guard.exempt_keys(wanted):
            self.maps[guard.EXEMPT].set(key, bytes(4))
        self.program = Program.load(guard.guard_code(wanted, way, STATION), self.maps, way, "test")
        self.alive()

    def alive(self, seconds: float = 3600.0) -> None:
        """It works for so long."""
        self.maps[guard.CONTROL].set(bytes(4), guard.TIME.pack(_clock(seconds)))

    def bucket(self, seconds: float, version: int = 4) -> None:
        """The source's bucket is full again in so many seconds: more than 599 is over the limit."""
        self.maps[guard.SOURCES].set(BUCKETS[version], guard.TIME.pack(_clock(seconds)) + bytes(8))

    def block(self, seconds: float, version: int = 4) -> None:
        self.maps[guard.BLOCKED].set(KEYS[version], guard.TIME.pack(_clock(seconds)))

    def forget(self) -> None:
        """Every source."""
        for version in (4, 6):
            self.maps[guard.SOURCES].delete(BUCKETS[version])
            self.maps[guard.BLOCKED].delete(KEYS[version])

    def drops(self, packet: bytes) -> bool:
        said = self.program.run(packet)
        assert said in {guard.DROPPED[self.way], {Attach.TCX: -1, Attach.XDP: 2}[self.way]}
        return said == guard.DROPPED[self.way]

    def counts(self) -> dict[str, int]:
        return dict(zip(guard.COUNTED, self.maps[guard.COUNTS].sums(), strict=True))

    def close(self) -> None:
        self.program.close()
        for one in self.maps.values():
            one.close()


def load(way: Attach, wanted: KernelSettings = SETTINGS) -> Loaded:
    if os.geteuid() != 0 or not supported():
        pytest.skip("loading programs takes root, and a machine that we know")
    return Loaded(way, wanted)


@pytest.fixture(scope="module", params=list(Attach), ids=lambda way: way.name.lower())
def loaded(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    made = load(request.param)
    yield made
    made.close()


URIS = st.builds(
    lambda *parts: b"".join(parts),
    st.sampled_from([b"sip:", b"sip:", b"SIP:", b"sips:", b"tel:", b"urn:service:", b"sip", b"x"]),
    st.sampled_from([b"", b"", b"+", b"+1", b"++", b"1"]),
    st.sampled_from([b"911", b"933", b"112", b"12025550100", b"sos", b"SoS.fire", b"91", b"9111"]),
    st.sampled_from([b"@", b"", b"0", b"9", b":", b"/", b" SIP/2.0\r\n"]),
)
WORDS = [
    b"INVITE ",
    b"invite ",
    b"INVITE",
    b"InViTe\t",
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"ACK ",
    b"SIP/2.0 ",
    b"",
    b"INVIT",
]
PAYLOADS = st.builds(lambda word, uri, rest: word + uri + rest, st.sampled_from(WORDS), URIS, st.binary(max_size=99))
PARTS: dict[str, st.SearchStrategy[object]] = {
    "payload": PAYLOADS | st.binary(max_size=60) | st.sampled_from(WORDS),
    "port": st.sampled_from([5061, 0, 0xC413]),
    "station": st.sampled_from([b"\x02\0\0\0\0\1", b"\xff" * 6, b"\1\0\x5e\0\0\1", b"\0\0\0\0\0\2"]),
    "tags": st.sampled_from([(0x8100,), (0x88A8, 0x8100), (0x8100,) * 3, (0x9100,)]),
    "first": st.sampled_from([0x46, 0x44, 0x55, 0x35]),
    "fragment": st.sampled_from([0x4000, 0x2000, 0x0001, 0x8000]),
    "protocol": st.sampled_from([6, 44, 0]),
    "length": st.sampled_from([8, 12, 13, 0, 0xFFFF]),
}
SOMETIMES = st.sampled_from([False, False, False, True])


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """An INVITE to somewhere with at most two parts of it wrong, an octet changed, or cut off."""
    frame = Frame(b"INVITE " + draw(URIS) + bytes(40), draw(st.sampled_from([4, 6])))
    for part in draw(st.lists(st.sampled_from(sorted(PARTS)), max_size=2, unique=True)):
        frame = frame.but(**{part: draw(PARTS[part])})
    raw = bytearray(frame.bytes().ljust(SHORTEST, b"\0"))
    if draw(SOMETIMES):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    if draw(SOMETIMES):
        del raw[draw(st.integers(SHORTEST, len(raw))) :]
    return bytes(raw)


@settings(max_examples=300)
@example(Frame(b"INVITE sip:911").bytes())  # nothing behind the number: no emergency call
@example(Frame(b"INVITE sip:911;").bytes())
@example(Frame(tags=(0x88A8, 0x8100)).bytes())
@example(Frame(tags=(0x8100, 0x8100, 0x8100)).bytes())
@example(Frame(b"\r\nINVITE sip:x", length=12).bytes())
@example(Frame(b"\r\nINVITE sip:x", length=13).bytes())
@given(packets() | st.binary(min_size=SHORTEST, max_size=200))
def test_of_a_blocked_and_a_flooding_source_it_drops_what_the_reference_says_and_of_others_nothing(
    loaded: Loaded, packet: bytes
) -> None:
    excess = is_excess(packet, loaded.way)
    source = _source(packet)
    loaded.forget()
    assert not loaded.drops(packet)
    for version in (4, 6):
        loaded.bucket(650.0, version)
    assert loaded.drops(packet) == (excess and source[:8] in (SOURCE4, SOURCE6[:8]))
    for version in (4, 6):
        loaded.bucket(500.0, version)
    assert not loaded.drops(packet)
    for version in (4, 6):
        loaded.block(60.0, version)
    assert loaded.drops(packet) == (excess and source in (SOURCE4, SOURCE6))


def _source(packet: bytes) -> bytes:
    """Of a packet that is_excess."""
    at = 12
    for _ in range(2):
        if packet[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
            at += 4
    if packet[at : at + 2] == b"\x08\x00":
        return packet[at + 14 : at + 18]
    return packet[at + 10 : at + 26]


def test_a_bucket_holds_what_the_table_s_does(loaded: Loaded) -> None:
    loaded.forget()
    passed = sum(not loaded.drops(Frame().bytes()) for _ in range(650))
    assert 600 <= passed <= 602


def test_what_is_dropped_is_counted_by_kind_and_reason(loaded: Loaded) -> None:
    before = loaded.counts()
    loaded.forget()
    loaded.bucket(650.0)
    for payload in (b"INVITE sip:x", b"\r\nINVITE sip:x", b"INVITE tel:911;", b"OPTIONS sip:x"):
        loaded.drops(Frame(payload).bytes())
    loaded.block(60.0, 6)
    loaded.drops(Frame(version=6).bytes())
    added = {name: number - before[name] for name, number in loaded.counts().items()}
    assert added == {"invites": 2, "empty_lines": 1, "blocked": 1, "flood": 2}
    value = loaded.maps[guard.SOURCES].get(BUCKETS[4])
    assert value is not None
    assert guard.over_limit(value) == 3  # an emergency call is over the limit, too, and passes


def test_without_a_sign_of_life_and_when_a_block_is_over_all_passes(loaded: Loaded) -> None:
    loaded.forget()
    loaded.block(60.0)
    assert loaded.drops(Frame().bytes())
    for seconds in (-0.001, -3600.0):
        loaded.alive(seconds)
        assert not loaded.drops(Frame().bytes())
    loaded.alive()
    loaded.block(-0.001)
    assert not loaded.drops(Frame().bytes())


@pytest.mark.parametrize("way", list(Attach))
def test_prefixes_ports_and_exemptions(way: Attach) -> None:
    """With as many ports as there may be, and numbers as long."""
    ports = tuple(range(5060, 5060 + 2 * 64, 2))
    exempt = ("192.0.2.2/32", "2001:db8:1::/48")
    wanted = replace(SETTINGS, ports=ports, exempt=exempt, emergency_numbers=("112", "999999999999"))
    made = load(way, wanted)
    for version in (4, 6):
        made.maps[guard.BLOCKED_NETS].set(
            guard._PREFIX.pack(96 if version == 4 else 0, guard.address_key(PREFIXES[version])),
            guard.TIME.pack(1 << 62),
        )
        assert not made.drops(Frame(version=version).bytes())
    for one in guard.exempt_keys(wanted):
        made.maps[guard.EXEMPT].delete(one)
    for version in (4, 6):
        frame = Frame(version=version)
        assert [port for port in range(5050, 5200) if made.drops(frame.but(port=port).bytes())] == list(ports)
        assert not made.drops(frame.but(payload=b"INVITE sips:+1999999999999@x").bytes())
        assert made.drops(frame.but(payload=b"INVITE sips:+19999999999990").bytes())
    made.close()


def test_keys_and_what_they_stand_for() -> None:
    for version, source in ((4, SOURCE4), (6, SOURCE6[:8] + bytes(8))):
        assert guard.source_of(BUCKETS[version]) == source


@pytest.mark.parametrize("way", list(Attach))
def test_no_part_of_a_word_of_the_stack_is_written_beside_another(way: Attach) -> None:
    """Where the word has a known number, older kernels (6.1) hold that for an attack, without CAP_PERFMON."""
    code = guard.guard_code(replace(SETTINGS, exempt=("192.0.2.0/24",)), way, STATION)
    maps = {spec.name: 3 for spec in guard.guard_maps(SETTINGS)}
    parts: dict[int, set[int]] = {}
    for operation, registers, offset, _ in struct.iter_unpack("<BBhi", code.assemble(maps)):
        stored = operation & 0x07 in (2, 3) and operation & 0xE0 == 0x60  # BPF_ST or BPF_STX, BPF_MEM
        if stored and registers & 0x0F == 10:
            whole = operation & 0x18 == 0x18
            assert whole or offset % 8, f"a part of the word at {offset} that its number is known of"
            parts.setdefault(offset // 8, set()).add(offset)
    assert parts
    assert all(len(offsets) == 1 for offsets in parts.values()), parts
