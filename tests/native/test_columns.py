"""The compiled reader of call records against controller.archive.rows: what it takes is the same, to the last bit."""

import json
import tracemalloc
from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent import native
from agent.records.rows import RowEncoder
from agent.records.segment import Kind
from controller.archive.columns import Columns
from controller.archive.layout import CALLS
from controller.archive.rows import FIELDS, Lines, rows_of
from tests.controller.archive.lines import call, lines, raw, text_of
from tests.controller.stores import WHEN
from tests.records.decisions import allowed, refused

if native.columns is None:
    pytest.skip("the compiled twins are not built", allow_module_level=True)
compiled = native.columns.Columns

SCHEMA = pa.schema(list(FIELDS[CALLS].items()))
SOUND = lines([call(1), call(2, observed=True)])


def columns() -> Columns:
    return Columns(list(SCHEMA))


def taken(reader: Columns) -> pa.Table:
    table = pa.table(reader.take(), schema=SCHEMA)
    table.validate(full=True)
    return table


def expected(*parts: Lines) -> pa.Table:
    return pa.concat_tables([rows_of(part, WHEN) for part in parts])


def is_taken(part: Lines) -> bool:
    """Whether it is; then it must be what the reference makes of it, and what came before and after it too."""
    reader = columns()
    assert reader.add(SOUND.text, SOUND.count)
    took = reader.add(part.text, part.count)
    assert reader.add(SOUND.text, SOUND.count)
    reference = expected(SOUND, *([part] if took else []), SOUND)
    assert not reference["rest"].drop_null()
    table = taken(reader)
    assert table.equals(reference.select(SCHEMA.names).combine_chunks())
    assert table.to_pylist() == reference.select(SCHEMA.names).to_pylist()
    return took


texts = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\\n\r\t\b\f\0/{}[],:\x7f\x80\u2028\U0001f4de')
)
words = st.none() | texts
times = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)).map(
    lambda t: t.isoformat(timespec="microseconds") + "Z"
)


def objects(*names: str, **others: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these, in any order."""
    fields = [st.tuples(st.just(name), words) for name in names]
    fields += [st.tuples(st.just(name), values) for name, values in others.items()]
    return st.lists(st.one_of(fields), unique_by=lambda item: item[0]).map(dict)


VERDICT = ("action", "rule", "category", "why", "answer")
verifications = objects(
    "failure", "why", "attestation", "signer", "origid", rows=st.lists(objects("ppt", "url", "failure", "why"))
)
plain = st.tuples(
    times,
    objects(
        "call_id", "trunk", "customer", "calling", "from_uri", *VERDICT,
        asserted=st.none() | st.lists(texts),
        identity=st.none() | st.lists(objects("sha256", "attestation")),
        verification=st.none() | verifications,
        shadow=st.lists(objects(*VERDICT)),
        policy_generation=st.none() | st.integers(0, (1 << 64) - 1),
        observed=st.none() | st.booleans(),
    ),
).map(lambda pair: {"time": pair[0], **pair[1]})  # fmt: skip


@given(st.lists(plain, min_size=1, max_size=12))
def test_what_agents_can_write_is_taken(values: list[dict[str, Any]]) -> None:
    assert is_taken(lines(values))


@given(st.lists(plain, min_size=1, max_size=4), st.data())
def test_text_that_was_changed_anywhere_is_refused_or_read_the_same(values: list[dict[str, Any]], data: Any) -> None:
    text = bytearray(lines(values).text)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(text) - 1)))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2) | st.sampled_from(FRAGMENTS))
    is_taken(raw(bytes(text), len(values)))


FRAGMENTS = [
    b'"', b"\\", b"\n", b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"0", b"-", b".", b"e1", b" ",
    b"\\u", b"\\ud8", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xff", b'"time":', b',"call_id":"x"',
    b'{"later":1}', b"\x00",
]  # fmt: skip


@given(st.binary(max_size=100) | st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(b"".join), st.integers(1, 3))
@example(b"{}", 1)
@example(b"", 1)
def test_any_bytes_are_refused_or_read_the_same(text: bytes, count: int) -> None:
    is_taken(raw(text, count))


def line(**changed: Any) -> bytes:
    return text_of([call(1, **changed)])


TIME = "2026-11-23T20:16:06.123456Z"


@pytest.mark.parametrize(
    "text",
    [
        line(time="2026-02-29T00:00:00.000000Z"),
        line(time="2100-02-29T00:00:00.000000Z"),
        line(time="2026-13-01T00:00:00.000000Z"),
        line(time="2026-11-31T00:00:00.000000Z"),
        line(time="2026-11-23T24:00:00.000000Z"),
        line(time="2026-11-23T23:60:00.000000Z"),
        line(time="2026-11-23T23:59:60.000000Z"),
        line(time="0001-11-23T23:59:59.000000Z"),
        line(time="9999-11-23T23:59:59.000000Z"),
        line(time="2026-11-23T20:16:06Z"),
        line(time=None),
        text_of([{key: value for key, value in call().items() if key != "time"}]),
        line(policy_generation=1 << 64),
        line(policy_generation=-1),
        line(policy_generation=1.0),
        line(policy_generation=True),
        line(observed=0),
        line(asserted=[None]),
        line(identity=[None]),
        line(identity=[{"sha256": "x", "later": 1}]),
        line(later=1),
        line().replace(b'"policy_generation":3', b'"policy_generation":03'),
        line().replace(b'"policy_generation":3', b'"policy_generation":3e0'),
        line().replace(b'"rule":""', b'"rule":"","rule":""'),
        line().replace(b'"rule":""', b'"rule":"\\ud83d\\ude00"'),
        line().replace(b'"rule":""', b'"rule":"\\x"'),
        line().replace(b'"rule":""', b'"rule":"\t"'),
        line().replace(b'"rule":""', b'"rule" :""'),
        line().replace(b'"rule":""', b'"rule":"\xed\xa0\x80"'),
        line().replace(b'"rule":""', b'"rule":"\xf0\x80\x80\x80"'),
        line()[:-1],
        line() + b"\n",
        line() + b" ",
        line() + line(),
    ],
)
def test_what_is_not_plain_is_left_to_the_reference(text: bytes) -> None:
    assert not is_taken(raw(text, 1))


@pytest.mark.parametrize(
    "text",
    [
        line(time="2024-02-29T23:59:59.999999Z"),
        line(time="2000-02-29T00:00:00.000000Z"),
        line(time="1969-12-31T23:59:59.999999Z"),
        line(time="0002-01-01T00:00:00.000000Z"),
        line(time="9998-12-31T23:59:59.999999Z"),
        line(policy_generation=(1 << 64) - 1),
        line(policy_generation=0),
        line().replace(b'"rule":""', b'"rule":"\\u0000\\u00e9\\u20ac\\/\\b"'),
        b'{"time":"%b"}' % TIME.encode(),
        b'{"call_id":null,"time":"%b","verification":{},"shadow":[{},{}]}' % TIME.encode(),
    ],
)
def test_the_ends_of_what_is_plain(text: bytes) -> None:
    assert is_taken(raw(text, 1))


def test_the_number_of_lines_must_be_the_one_that_was_stated() -> None:
    two = text_of([call(1), call(2)])
    assert [is_taken(raw(two, count)) for count in (1, 2, 3)] == [False, True, False]


def test_what_an_agent_puts_into_its_spool_is_taken() -> None:
    encoder = RowEncoder()
    rows = [encoder.row(decision(f"{n}")) for n in range(30) for decision in (allowed, refused)]
    assert is_taken(Lines("a1", 1, 1, Kind.ALLOWED, len(rows), b"\n".join(rows)))


def test_a_batch_that_is_refused_late_leaves_nothing_behind() -> None:
    late = [call(n, notes=["x"] * n, verification={"failure": None} if n % 3 else None) for n in range(200)]
    assert not is_taken(raw(text_of(late) + b"\n{", 201))


def test_columns_outlive_their_reader_and_give_their_memory_back() -> None:
    text = text_of([call(n) for n in range(1000)])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        reader = columns()
        for _ in range(20):
            assert reader.add(text, 1000)
        table = taken(reader)
        del reader
        assert table["call_id"][19_999].as_py() == "999@192.0.2.1"
        assert tracemalloc.get_traced_memory()[0] - before > 1 << 20
        del table
        assert tracemalloc.get_traced_memory()[0] - before < 1 << 18
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "fields",
    [
        (),
        [],
        (("a",),),
        (("a", "float", ()),),
        (("a", "list", ()),),
        (("a", "list", (("x", "string", ()), ("y", "string", ()))),),
        (("a", "struct", (("b", "none", ()),)),),
        tuple((f"f{n}", "string", ()) for n in range(65)),
    ],
)
def test_fields_that_are_none_are_an_error(fields: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        compiled(fields)


def test_without_the_compiled_reader_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "columns", None)
    reader = columns()
    assert not reader.add(SOUND.text, SOUND.count)
    assert taken(reader).num_rows == 0


def test_the_names_of_this_test_are_those_of_the_archive() -> None:
    assert set(json.loads(SOUND.text.split(b"\n")[0])) == set(SCHEMA.names)
