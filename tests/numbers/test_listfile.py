"""The list file: comes back as it was written, and is refused when a single bit of it is not."""

import hashlib
import json
import mmap
import random
import struct
import sys
from array import array
from pathlib import Path

import pytest

from agent import files
from agent.model import ConfigError
from agent.numbers import dno, listfile
from agent.numbers.dno import Assertion, DnoCategory
from agent.numbers.dno_build import Contents, DnoBuilder
from agent.numbers.listfile import ALIGNMENT, MAGIC, encode, read_list
from agent.numbers.packing import view
from agent.numbers.ranges import parse_piece

WHEN = 1_800_000_000.0
REQUEST = Assertion(DnoCategory.SUBSCRIBER_REQUEST, "Registré", "IRS", WHEN - 1, None)
UNUSED = Assertion(DnoCategory.UNUSED, "carrier", "Carrier A", WHEN - 1, WHEN + 86_400)


def make_contents() -> Contents:
    builder = DnoBuilder()
    for text, assertion in (
        ("2015550123", REQUEST),
        ("2015552*", UNUSED),
        ("2015559999", UNUSED),
        ("+442079460123", REQUEST),
    ):
        builder.add(parse_piece(text), builder.assertion_id(assertion))
    return builder.finish()


@pytest.fixture(scope="module")
def raw() -> bytes:
    return b"".join(encode(make_contents(), 7, WHEN, "1.2.3"))


def head_size(raw: bytes) -> int:
    return int(struct.unpack_from("<I", raw, 12)[0])


def refuse(raw: bytes | bytearray, reason: str = "not a usable") -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        read_list(memoryview(bytes(raw)), "some/dno.list")
    assert caught.value.field == "some/dno.list"


def test_list_comes_back_as_it_was_written(raw: bytes) -> None:
    read = read_list(memoryview(raw), "x")
    contents = make_contents()
    assert read.assertions == contents.assertions
    assert [s.tobytes() for s in read._sections] == [s.tobytes() for s in contents.sections]
    assert read.manifest.generation == 7
    assert read.manifest.created_at == "2027-01-15T08:00:00Z"
    assert read.manifest.counts == contents.counts()
    assert read.manifest.sources == ("Registré", "carrier")
    assert read.manifest.first_expiry == "2027-01-16T08:00:00Z"
    assert read.manifest.not_after is None
    assert read.manifest.agent_version == "1.2.3"
    assert read.version == f"7-{read.manifest.sha256[:12]}"


def test_same_contents_have_the_same_digest_whenever_they_are_built(raw: bytes) -> None:
    later = read_list(memoryview(b"".join(encode(make_contents(), 8, WHEN + 1, "9"))), "x")
    assert later.manifest.sha256 == read_list(memoryview(raw), "x").manifest.sha256
    assert later.version != read_list(memoryview(raw), "x").version


def test_every_section_is_aligned(raw: bytes) -> None:
    count = struct.unpack_from("<H", raw, 10)[0]
    for i in range(count):
        assert struct.unpack_from("<12sIQQ", raw, 56 + 32 * i)[2] % ALIGNMENT == 0


def test_any_flipped_bit_of_the_head_is_refused(raw: bytes) -> None:
    damaged = bytearray(raw)
    for position in range(head_size(raw)):
        damaged[position] ^= 1 << position % 8
        with pytest.raises(ConfigError):
            listfile.read_list(memoryview(damaged), "x")
        damaged[position] ^= 1 << position % 8


def test_any_flipped_bit_of_the_content_is_refused(raw: bytes) -> None:
    rng = random.Random(3)
    damaged = bytearray(raw)
    positions = [rng.randrange(head_size(raw), len(raw)) for _ in range(60)]
    for position in (head_size(raw), len(raw) - 1, *positions):
        damaged[position] ^= 1 << rng.randrange(8)
        refuse(damaged, "checksum")
        damaged[position] = raw[position]


def test_file_that_is_cut_off_anywhere_is_refused(raw: bytes) -> None:
    rng = random.Random(4)
    lengths = [*range(200), *(rng.randrange(len(raw)) for _ in range(200)), len(raw) - 1]
    for length in lengths:
        with pytest.raises(ConfigError, match=r"empty|not even a head|should have"):
            read_list(memoryview(raw)[:length], "x")


def test_file_with_more_bytes_than_it_states_is_refused(raw: bytes) -> None:
    refuse(raw + b"\0", "should have")


def test_other_file_is_refused_by_its_magic() -> None:
    refuse(b"number,category\n" * 100, "does not start like one")
    refuse(MAGIC.replace(b"\r\n", b"\n") + bytes(100), "does not start like one")


def test_other_format_version_is_named(raw: bytes) -> None:
    other = bytearray(raw)
    struct.pack_into("<H", other, 8, 2)
    refuse(other, "format is version 2, this program reads version 1")


def rewrite(
    raw: bytes,
    patch: dict[str, bytes] | None = None,
    manifest: dict[str, object] | None = None,
    table: dict[str, tuple[int, int, int]] | None = None,
) -> bytes:
    """A file with other contents whose digests are right: what a hostile author could make."""
    size = head_size(raw)
    head, content = bytearray(raw[:size]), bytearray(raw[size:])
    count = struct.unpack_from("<H", raw, 10)[0]
    for i in range(count):
        at = 56 + 32 * i
        name, _, offset, length = struct.unpack_from("<12sIQQ", head, at)
        text = name.rstrip(b"\0").decode()
        if patch and text in patch:
            new = patch[text]
            assert len(new) <= length
            content[offset - size : offset - size + len(new)] = new
        if table and text in table:
            struct.pack_into("<12sIQQ", head, at, name, *table[text])
    end = 56 + 32 * count
    fields = json.loads(bytes(head[end:]).rstrip(b"\0"))
    fields |= {"sha256": hashlib.sha256(content).hexdigest()} | (manifest or {})
    text_bytes = json.dumps(fields, ensure_ascii=False).encode()
    head[end:] = text_bytes.ljust(size - end, b"\0")
    head[24:56] = hashlib.sha256(bytes(head[:24]) + bytes(head[56:])).digest()
    return bytes(head + content)


def test_rewriting_with_right_digests_is_read(raw: bytes) -> None:
    assert read_list(memoryview(rewrite(raw)), "x").assertions == (REQUEST, UNUSED)


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        ({"exact_ids": b"\xff\xff"}, "an assertion is named that is not there"),
        ({"run_ids": b"\x02\x00"}, "an assertion is named that is not there"),
        ({"other_ids": b"\x02\x00"}, "an assertion is named that is not there"),
        ({"offsets": b"\x01"}, "do not ascend"),
        ({"offsets": b"\0\0\0\0\xff\xff\xff\xff"}, "do not ascend"),
        ({"run_starts": b"\xff\xff\xff\xff"}, "runs of blocks do not ascend"),
        ({"run_stops": b"\0\0\0\0"}, "runs of blocks do not ascend"),
        ({"run_stops": b"\xff\xff\xff\xff"}, "ends outside the bitmap"),
        ({"assertions": b"not json"}, "its description cannot be read"),
        ({"assertions": b"[[9"}, "not a usable"),
    ],
)
def test_right_digest_does_not_excuse_impossible_content(raw: bytes, patch: dict[str, bytes], reason: str) -> None:
    refuse(rewrite(raw, patch), reason)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "other"},
        {"generation": "many"},
        {"generation": float("inf")},
        {"counts": 5},
        {"counts": {"a": []}},
        {"sources": None},
        {"sha256": 1},
        {"first_expiry": 5},
        {"not_after": []},
    ],
)
def test_right_digest_does_not_excuse_an_impossible_manifest(raw: bytes, change: dict[str, object]) -> None:
    refuse(rewrite(raw, manifest=change))


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("suffixes", (2, 1 << 40, 4)),
        ("suffixes", (2, 0, 4)),
        ("suffixes", (2, 1 << 63, 4)),
        ("suffixes", (4, 1024, 4)),
        ("suffixes", (2, 1024, 3)),
        ("bitmap", (1, 1025, 4)),
    ],
)
def test_section_outside_the_file_is_refused(raw: bytes, name: str, entry: tuple[int, int, int]) -> None:
    refuse(rewrite(raw, table={name: entry}), "lies outside|no array")


def test_list_without_blocks_or_without_single_numbers_is_small() -> None:
    builder = DnoBuilder()
    builder.add(parse_piece("2015552*"), builder.assertion_id(UNUSED))
    blocks = b"".join(encode(builder.finish(), 1, WHEN, "1"))
    assert len(blocks) < 1_300_000
    manifest = read_list(memoryview(blocks), "x").manifest
    assert (manifest.first_expiry, manifest.not_after) == ("2027-01-16T08:00:00Z", "2027-01-16T08:00:00Z")
    empty = b"".join(encode(DnoBuilder().finish(), 1, WHEN, "1"))
    assert len(empty) < 10_000
    assert read_list(memoryview(empty), "x").manifest.counts["numbers"] == 0


def test_mapped_list_lets_its_file_go_when_it_is_released(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "dno.list"
    files.replace_file(path, [raw])
    memory = files.map_file(path)
    read = read_list(memory, str(path))
    assert next(read.runs())[1] == UNUSED
    assert isinstance(memory.obj, mmap.mmap)
    with pytest.raises(BufferError):
        memory.obj.close()
    read.release()
    files.unmap(memory)


def test_machine_of_the_other_byte_order_writes_and_reads_the_same_file(
    raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretends that this machine is big-endian, with arrays whose bytes are swapped as they would be there."""
    contents = make_contents()
    counts = contents.counts()

    def swap(section: memoryview) -> memoryview:
        swapped = array(section.format, section.tobytes()) if section.nbytes else array(section.format)
        swapped.byteswap()
        return view(swapped) if section.itemsize > 1 else section

    swapped = Contents(dno.DnoSections(*map(swap, contents.sections)), contents.assertions)
    monkeypatch.setattr(Contents, "counts", lambda _self: counts)
    expected = [bytes(chunk) for chunk in encode(contents, 7, WHEN, "1.2.3")]
    other = "big" if sys.byteorder == "little" else "little"
    monkeypatch.setattr(sys, "byteorder", other)
    assert [bytes(chunk) for chunk in encode(swapped, 7, WHEN, "1.2.3")] == expected
    part = memoryview(b"".join(expected))
    assert listfile._native(part[:8], "H").tolist() == array("H", bytes(part[:8])[::-1]).tolist()[::-1]


def test_more_text_than_a_reader_takes_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listfile, "MAX_JSON", 100)
    with pytest.raises(ConfigError, match="the assertions are"):
        encode(make_contents(), 1, WHEN, "1")
