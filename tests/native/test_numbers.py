"""The compiled twins of agent.numbers against the Python ones."""

import gc
import mmap
import random
import re
import subprocess
import sys
import weakref
from array import array
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent import native
from agent.model import NO_NUMBER
from agent.numbers.index import ABSENT, BITMAP_BYTES, GROUPS, IN_BLOCK, NumberIndex, NumberIndexPy
from agent.numbers.packing import pack, set_blocks, view
from agent.numbers.reading import read_by_stages, read_number_py

if native.numbers is None:
    pytest.skip("the compiled twins are not built", allow_module_level=True)
NativeIndex = native.numbers.NumberIndex
read_native = native.numbers.read_number

FRAGMENTS = [
    b"sip:",
    b"sips:",
    b"tel:",
    b"urn:",
    b"SIP:",
    b"+",
    b"1",
    b"911",
    b"2015550123",
    b"12015550123",
    b"011",
    b"00",
    b"44",
    b"2079460123",
    b"5550123",
    b"*67",
    b"#",
    b"-",
    b".",
    b"(",
    b")",
    b" ",
    b"%30",
    b"%2B",
    b"%2b",
    b"%00",
    b"%0A",
    b"%7F",
    b"%zz",
    b"%",
    b"%e9",
    b"\xd9\xa1",
    b"\xff",
    b"\0",
    b"@",
    b"@a.example",
    b"@anonymous.invalid",
    b":",
    b":secret",
    b";",
    b";phone-context=",
    b";phone-context=+1",
    b";phone-context=+1201",
    b";PHONE-CONTEXT=+4420",
    b";phone-context=a.example",
    b";x=y",
    b"?",
    b"anonymous",
    b"Unavailable",
    b"alice",
    b"unknown.invalid",
    b":5060",
    b"0",
    b"9",
]
URIS = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=8).map(b"".join),
    st.binary(max_size=60),
    st.binary(max_size=40).map(lambda raw: b"sip:" + raw + b"@h"),
    st.text("0123456789+*#-.()% ;=", max_size=40).map(lambda text: b"tel:" + text.encode()),
    st.from_regex(rb"\Asips?:(\+1|1|\+)?[0-9]{1,16}@[a-z]{1,5}\Z"),
    st.from_regex(rb"\A(sip|tel):[0-9]{1,12};phone-context=\+?[0-9]{0,17}(@h)?\Z"),
)
COUNTRIES = st.sampled_from(["1", "", "44", "39", "7", "353", "86"])


@given(URIS, COUNTRIES)
@settings(max_examples=1000)
@example(b"sip:12015550123@h", "1")
@example(b"sip:0115550123@h", "1")
@example(b"tel:5550;phone-context=+1201555", "1")
def test_compiled_reading_equals_the_python_one(uri: bytes, country: str) -> None:
    expected = read_number_py(uri, country)
    got = read_native(uri, country)
    assert got == expected == read_by_stages(uri, country)
    assert type(got) is type(expected)
    assert got.kind is expected.kind
    assert (got is NO_NUMBER) == (expected is NO_NUMBER)


@given(st.text(max_size=4))
def test_compiled_reading_refuses_the_same_countries(country: str) -> None:
    outcomes = []
    for read in (read_number_py, read_native):
        try:
            outcomes.append(read(b"sip:2015550123@h", country))
        except ValueError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_compiled_reading_takes_arguments_by_name_as_the_python_one() -> None:
    assert read_native(uri=b"sip:911@h", default_country="1") == read_native(b"sip:911@h", default_country="1")
    for bad in ({"uri": b""}, {"uri": b"", "country": "1"}, {"uri": b"", "default_country": "1", "more": 1}):
        with pytest.raises(TypeError):
            read_native(**bad)
    with pytest.raises(TypeError):
        read_native(b"sip:911@h", "1", uri=b"")


@pytest.mark.parametrize(("uri", "country"), [("sip:911@h", "1"), (b"sip:911@h", b"1"), (b"sip:911@h", 1), (None, "1")])
def test_compiled_reading_refuses_other_types(uri: object, country: object) -> None:
    with pytest.raises(TypeError):
        read_native(uri, country)


def test_compiled_reading_keeps_no_reference() -> None:
    uri, before = b"sip:+12015550123@" + bytes(100), sys.getrefcount(None)
    counts = sys.getrefcount(uri)
    for _ in range(1000):
        read_native(uri, "1")
        read_native(b"", "1")
        read_native(b"sip:alice@h", "1")
    assert sys.getrefcount(uri) == counts
    assert abs(sys.getrefcount(None) - before) < 100


# ---- the index ----


def both(blocks: list[tuple[int, int]], numbers: list[int]) -> tuple[NumberIndex, NumberIndex]:
    bitmap = bytearray(BITMAP_BYTES if blocks else 0)
    for first, stop in blocks:
        set_blocks(bitmap, first, stop)
    packed = pack(sorted(set(numbers)))
    arrays = (view(bitmap), view(packed.offsets), view(packed.suffixes))
    return NumberIndexPy(*arrays), NativeIndex(*arrays)


NUMBERS = st.integers(0, 10**10 - 1)
BLOCK_RANGES = st.tuples(st.integers(0, 10**7 - 1), st.integers(1, 3000)).map(lambda r: (r[0], min(10**7, r[0] + r[1])))


@given(st.lists(BLOCK_RANGES, max_size=3), st.lists(NUMBERS, max_size=30), st.lists(NUMBERS, max_size=30))
@settings(max_examples=12)
def test_compiled_index_equals_the_python_one(
    blocks: list[tuple[int, int]], numbers: list[int], others: list[int]
) -> None:
    python, compiled = both(blocks, numbers)
    edges = [n for first, stop in blocks for n in (first * 1000 - 1, first * 1000, stop * 1000 - 1, stop * 1000)]
    neighbours = [n + step for n in numbers for step in (-1, 0, 1)]
    for number in (*others, *edges, *neighbours, -1, 10**10, 2**63, -(2**63), 2**100, -(2**100), 0, 10**10 - 1):
        assert compiled.locate(number) == python.locate(number)
        assert compiled.contains(number) is python.contains(number)


def test_position_is_the_place_among_the_suffixes() -> None:
    for index in both([(5_000_000, 5_000_001)], [2015550123, 2015550124, 9999999999, 5000000500]):
        assert [index.locate(n) for n in (2015550123, 2015550124, 5000000500, 9999999999)] == [0, 1, 2, 3]
        assert index.locate(5000000501) == IN_BLOCK
        assert index.locate(2015550125) == ABSENT


@pytest.mark.parametrize("make", [NumberIndexPy, NativeIndex])
@pytest.mark.parametrize(
    ("bitmap", "offsets", "suffixes", "reason"),
    [
        (bytes(7), array("I"), array("H"), "the bitmap has 7 bytes"),
        (b"", array("I", [0, 0]), array("H"), "the offsets have 8 bytes"),
        (b"", array("I"), array("H", [1]), "suffixes without offsets"),
        (b"", array("I"), array("B", [1]), "not whole u16"),
        (b"", array("I", [0] * GROUPS + [2]), array("H", [1]), "do not ascend"),
        (b"", array("I", [1] * (GROUPS + 1)), array("H", [1]), "do not ascend"),
        (b"", array("I", [0, 2**32 - 1] + [1] * (GROUPS - 1)), array("H", [1]), "do not ascend"),
        (b"", array("I", [0, 1, 0] + [1] * (GROUPS - 2)), array("H", [1]), "do not ascend"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    make: type[NumberIndexPy], bitmap: bytes, offsets: "array[int]", suffixes: "array[int]", reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        make(view(bitmap), view(offsets), view(suffixes))


@pytest.mark.parametrize("make", [NumberIndexPy, NativeIndex])
def test_released_index_answers_no_more_and_lets_its_memory_go(make: type[NumberIndexPy]) -> None:
    mapping = mmap.mmap(-1, BITMAP_BYTES)
    memory = memoryview(mapping)
    index = make(memory, view(array("I")), view(array("H")))
    assert index.locate(5) == ABSENT
    index.release()
    index.release()
    memory.release()
    mapping.close()
    for question in (index.locate, index.contains):
        with pytest.raises(ValueError, match="released"):
            question(5)


def test_compiled_index_keeps_its_memory_alive_and_frees_it_with_itself() -> None:
    class Owned(bytearray):
        pass

    buffer = Owned(BITMAP_BYTES)
    gone = weakref.ref(buffer)
    index = NativeIndex(buffer, b"", b"")
    del buffer
    gc.collect()
    assert gone() is not None
    assert index.locate(1) == ABSENT
    del index
    gc.collect()
    assert gone() is None


def test_file_that_is_overwritten_after_opening_causes_no_wild_read() -> None:
    offsets = bytearray(4 * (GROUPS + 1))
    suffixes = array("H", [123])
    offsets[:] = array("I", [0] + [1] * GROUPS).tobytes()
    index = NativeIndex(b"", offsets, suffixes)
    assert index.locate(123) == 0
    offsets[4:8] = b"\xff\xff\xff\xff"
    assert index.locate(123) == ABSENT
    assert index.locate(9999) == ABSENT


@pytest.mark.parametrize("argument", ["1", 1.0, None, b"1"])
def test_compiled_index_refuses_what_is_no_integer(argument: object) -> None:
    with pytest.raises(TypeError):
        NativeIndex(b"", b"", b"").locate(argument)


def test_compiled_index_refuses_other_arguments() -> None:
    for bad in ((), (b"",), (b"", b"", 5), (b"", b"", b"", b"")):
        with pytest.raises(TypeError):
            NativeIndex(*bad)


def test_environment_forces_python() -> None:
    code = "from agent.numbers import reading; assert reading.read_number is reading.read_number_py"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, env={"SBC_EDGE_PURE": "1", "PYTHONPATH": str(root)})


def test_many_random_numbers_are_found_where_they_are() -> None:
    rng = random.Random(7)
    numbers = sorted({rng.randrange(2 * 10**9, 10**10) for _ in range(20_000)})
    python, compiled = both([], numbers)
    for position, number in enumerate(numbers):
        assert compiled.locate(number) == position
        assert not compiled.contains(number + 1) or numbers[position + 1] == number + 1
    assert all(python.locate(numbers[i]) == i for i in range(0, len(numbers), 100))


def test_every_address_of_every_message_we_have_reads_the_same(corpus: Path, shared_data: Path) -> None:
    compared = 0
    for path in (*corpus.rglob("*"), *(shared_data / "sip").rglob("*")):
        if not path.is_file():
            continue
        for uri in re.findall(rb"(?i)(?:sips?|tel|urn):[^\s<>\"]*", path.read_bytes()):
            for country in ("1", "", "44"):
                assert read_native(uri, country) == read_number_py(uri, country)
            compared += 1
    assert compared > 100
