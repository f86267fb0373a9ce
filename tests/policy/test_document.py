"""The policy file and the protobuf policy say the same, and every error names its place."""

import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.documents import BARE_KEY, ERRORS_MAX
from agent.model import ConfigErrors
from agent.policy.document import INTEGERS, _enum_names, from_dict, from_toml, to_dict, to_toml
from sbcedge.policy.v1 import policy_pb2 as pb

DOCUMENT = """
generation = 3
name = "spring"
local_addresses = ["192.0.2.1", "2001:db8::1"]

[[trunks]]
id = "peer"
sources = ["198.51.100.0/24"]
trust_asserted_identity = true

[emergency]

[do_not_originate]
mode = "shadow"

[[limits]]
name = "cps"
mode = "enforce"
scope = "called_prefix"
called_prefixes = ["1900"]
rate = 30
window_seconds = 0.5
[limits.answer]
code = 480

[[limits]]
"""


def errors_of(text: str) -> dict[str, str]:
    """Path to reason of everything that is wrong with a document."""
    with pytest.raises(ConfigErrors) as caught:
        from_toml(text)
    found = {error.field: error.reason for error in caught.value.errors}
    assert len(found) == len(caught.value.errors)
    return found


def test_keys_are_fields_and_tables_are_messages() -> None:
    assert from_toml(DOCUMENT) == pb.Policy(
        generation=3,
        name="spring",
        local_addresses=["192.0.2.1", "2001:db8::1"],
        trunks=[pb.Trunk(id="peer", sources=["198.51.100.0/24"], trust_asserted_identity=True)],
        emergency=pb.EmergencyRule(),
        do_not_originate=pb.DoNotOriginateRule(mode=pb.MODE_SHADOW),
        limits=[
            pb.Limit(
                name="cps",
                mode=pb.MODE_ENFORCE,
                scope=pb.SCOPE_CALLED_PREFIX,
                called_prefixes=["1900"],
                rate=30.0,
                window_seconds=0.5,
                answer=pb.AnswerSpec(code=480),
            ),
            pb.Limit(),
        ],
    )


def test_an_empty_document_is_an_empty_policy() -> None:
    assert from_toml("") == pb.Policy()
    assert to_toml(pb.Policy()) == "\n"


def test_an_empty_table_is_not_an_absent_one() -> None:
    assert from_toml("[do_not_originate]").HasField("do_not_originate")
    assert not from_toml("[emergency]").HasField("do_not_originate")


def test_a_byte_order_mark_and_crlf_are_read() -> None:
    assert from_toml('\ufeffgeneration = 1\r\nname = "x"\r\n') == pb.Policy(generation=1, name="x")


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("generaton = 1", "generaton", 'unknown key; did you mean "generation"?'),
        ("[[limits]]\n[[limits]]\nrat = 1", "limits[1].rat", 'did you mean "rate"?'),
        ("[[limits]]\nwarn-at = 1", "limits[0].warn-at", 'did you mean "warn_at"?'),
        ("[[limits]]\n[limits.answer]\ncod = 1", "limits[0].answer.cod", 'did you mean "code"?'),
        ('[emergency]\nmode = "off"', "emergency.mode", "known: numbers, psap_calling, psap_sources"),
        ('"a b\\u0007" = 1', '"a b\\x07"', "unknown key"),
        ('[[limits]]\nmode = "Shadow"', "limits[0].mode", '"Shadow" is not known; did you mean "shadow"?'),
        ('[[limits]]\nmode = "unspecified"', "limits[0].mode", "is not known"),
        ('[[limits]]\nmode = "MODE_SHADOW"', "limits[0].mode", "is not known"),
        ("[[limits]]\nmode = 2", "limits[0].mode", 'must be one of "enforce", "shadow", "off", not a whole number'),
        ('[[limits]]\nscope = "called-prefix"', "limits[0].scope", 'did you mean "called_prefix"?'),
        ('[[limits]]\nrate = "30"', "limits[0].rate", "must be a number, not a string"),
        ("[[limits]]\nrate = true", "limits[0].rate", "must be a number, not true or false"),
        ("[[limits]]\nrate = nan", "limits[0].rate", "finite"),
        ("[[limits]]\nrate = -inf", "limits[0].rate", "finite"),
        ("[[limits]]\nrate = 1" + "0" * 400, "limits[0].rate", "finite"),
        ("[[limits]]\nsessions = -1", "limits[0].sessions", "must be from 0 to 4294967295"),
        ("[[limits]]\nsessions = 4294967296", "limits[0].sessions", "must be from 0 to 4294967295"),
        ("[[limits]]\nsessions = 1.0", "limits[0].sessions", "must be a whole number, not a number with a fraction"),
        ("[[limits]]\nsessions = true", "limits[0].sessions", "must be a whole number, not true or false"),
        ("generation = 18446744073709551616", "generation", "must be from 0"),
        ("[caller_id_authorisation]\nwarn_first = 2147483648", "caller_id_authorisation.warn_first", "must be from -2"),
        ("name = 5", "name", "must be a string, not a whole number: put it in quotes"),
        ("name = true", "name", "must be a string, not true or false"),
        (
            "[provider_block]\n[[provider_block.blocks]]\nstarts_at = 2026-12-01T00:00:00Z",
            "provider_block.blocks[0].starts_at",
            "must be a string, not a date or time: put it in quotes",
        ),
        ('[[trunks]]\nsources = "192.0.2.1"', "trunks[0].sources", "must be an array of strings, not a string"),
        ('[[trunks]]\nsources = ["192.0.2.1", 5]', "trunks[0].sources[1]", "must be a string, not a whole number"),
        ("[[trunks]]\ntrust_asserted_identity = 1", "trunks[0].trust_asserted_identity", "must be true or false"),
        ("[limits]\nrate = 1", "limits", "there may be several: write [[limits]]"),
        ("[provider_block.blocks]", "provider_block.blocks", "write [[provider_block.blocks]]"),
        ("[[emergency]]", "emergency", "there is only one: write [emergency]"),
        ("[[limits]]\n[[limits.answer]]", "limits[0].answer", "write [limits.answer]"),
        ("limits = [1]", "limits[0]", "must be a table, not a whole number"),
        ("limits = 1", "limits", "must be an array of tables, [[limits]], not a whole number"),
        ('emergency = "yes"', "emergency", "must be a table, not a string"),
    ],
)
def test_an_error_names_its_field_and_says_what_to_do(text: str, field: str, reason: str) -> None:
    found = errors_of(text)
    assert list(found) == [field]
    assert reason in found[field]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("generation = 3\nname = \n", "line 2, column 8"),
        ("[[limits]\n", "line 1, column 9"),
        ("a = 1\na = 2\n", "line 2, column 6"),
        ('name = "', "end of document"),
        ('name = "a\x00"', "line 1, column 10"),
    ],
)
def test_a_syntax_error_names_line_and_column(text: str, place: str) -> None:
    assert list(errors_of(text)) == [place]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("generation = " + "9" * 5000, "too many digits"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("a = " + "{a=" * 100_000, "nested too deeply"),
    ],
)
def test_a_hostile_document_is_an_error_like_any_other(text: str, reason: str) -> None:
    assert reason in errors_of(text)[""]


def test_all_errors_come_at_once_in_the_order_of_the_file() -> None:
    trunk = '[[trunks]]\nid = 5\nsources = [1, "192.0.2.1", 2]\n'
    found = errors_of("generation = -1\nnaem = 1\n" + trunk + "[[limits]]\nrate = nan\n")
    assert list(found) == [
        "generation",
        "naem",
        "trunks[0].id",
        "trunks[0].sources[0]",
        "trunks[0].sources[2]",
        "limits[0].rate",
    ]


def test_a_wrong_file_does_not_print_a_thousand_errors() -> None:
    with pytest.raises(ConfigErrors) as caught:
        from_toml("".join(f"key{n} = 1\n" for n in range(1000)))
    assert len(caught.value.errors) == ERRORS_MAX + 1
    assert caught.value.errors[-1].reason == "and 900 more errors"


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(ConfigErrors, match="name: is not Unicode text"):
        from_dict({"name": "\udc80"})


def test_the_file_is_one_that_a_person_would_write() -> None:
    policy = from_toml(DOCUMENT)
    policy.name = 'the "spring" one\n'
    policy.customers.add(id="acme", numbers=[f"20155501{n:02}" for n in range(12)])
    assert (
        to_toml(policy)
        == """generation = 3
name = "the \\"spring\\" one\\n"
local_addresses = ["192.0.2.1", "2001:db8::1"]

[[trunks]]
id = "peer"
sources = ["198.51.100.0/24"]
trust_asserted_identity = true

[[customers]]
id = "acme"
numbers = [
"""
        + "".join(f'    "20155501{n:02}",\n' for n in range(12))
        + """]

[emergency]

[do_not_originate]
mode = "shadow"

[[limits]]
name = "cps"
mode = "enforce"
scope = "called_prefix"
called_prefixes = ["1900"]
rate = 30
window_seconds = 0.5

[limits.answer]
code = 480

[[limits]]
"""
    )


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (pb.Policy(limits=[pb.Limit(), pb.Limit(rate=float("nan"))]), "limits[1].rate"),
        (pb.Policy(limits=[pb.Limit(scope=77)]), "limits[0].scope"),  # type: ignore[arg-type]
        (pb.Policy.FromString(b"\xf8\x3f\x01"), ""),  # field 1023 of a later version
    ],
)
def test_what_a_file_cannot_say_is_an_error_not_a_loss(policy: pb.Policy, field: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        to_toml(policy)
    assert [error.field for error in caught.value.errors] == [field]


def test_every_field_of_the_contract_is_of_a_kind_that_the_document_knows() -> None:
    known = {
        FieldDescriptor.TYPE_BOOL,
        FieldDescriptor.TYPE_STRING,
        FieldDescriptor.TYPE_DOUBLE,
        FieldDescriptor.TYPE_ENUM,
        FieldDescriptor.TYPE_MESSAGE,
        *INTEGERS,
    }
    for message in _messages(pb.Policy.DESCRIPTOR):
        # A field that may be absent ("optional") is a oneof of its own; none has two members.
        assert all(len(oneof.fields) == 1 for oneof in message.oneofs)
        for field in message.fields:
            assert field.type in known, field.full_name
            assert not (field.enum_type is not None and field.is_repeated), field.full_name
            assert not (field.message_type is not None and field.message_type.GetOptions().map_entry)
            assert BARE_KEY.fullmatch(field.name)


def _messages(message: Any) -> Iterator[Any]:
    yield message
    for field in message.fields:
        if field.message_type is not None:
            yield from _messages(field.message_type)


ODD_TEXT = st.text('ab"\\\n\r\t\x00\x7f\x85\u2028é😀', max_size=9)
ODD_NUMBERS = st.sampled_from([0.0, -0.0, 30.0, 1e15, 1e16, 2.0**53, 5e-324, 1e300])


def _values(field: Any) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(GetMessageClass(field.message_type))
    if field.enum_type is not None:
        return st.sampled_from(sorted(_enum_names(field.enum_type)))
    if field.type in INTEGERS:
        low, high = INTEGERS[field.type]
        return st.one_of(st.integers(low, high), st.integers(0, 1000))
    kinds: dict[int, st.SearchStrategy[Any]] = {
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_STRING: st.text(max_size=20) | ODD_TEXT,
        FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False) | ODD_NUMBERS,
    }
    return kinds[field.type]


def messages(kind: type[Message]) -> st.SearchStrategy[Any]:
    """Any message of this kind, with any of its fields set to anything they can hold."""
    fields = {}
    for field in kind.DESCRIPTOR.fields:
        values = _values(field)
        fields[field.name] = st.lists(values, max_size=3) if field.is_repeated else values
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: kind(**chosen))


@given(policy=messages(pb.Policy))
@settings(max_examples=200)
def test_what_is_written_is_read_back_the_same(policy: pb.Policy) -> None:
    text = to_toml(policy)
    again = from_toml(text)
    assert again == policy
    assert again.SerializeToString(deterministic=True) == policy.SerializeToString(deterministic=True)
    assert tomllib.loads(text) == to_dict(policy)
    assert to_toml(again) == text


KEYS = st.sampled_from(["limits", "rate", "mode", "trunks", "sources", "answer", "code", "blocks", "allow"])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates() | st.binary()
JUNK = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def errors_in(read: Callable[[], object]) -> list[str]:
    """The paths of what is wrong; any other exception fails the test."""
    try:
        read()
    except ConfigErrors as errors:
        return [error.field for error in errors.errors] or ["an error without a place"]
    return []


@given(
    table=st.dictionaries(
        st.sampled_from(["generation", "name", "trunks", "limits", "allow", "provider_block", "customers"]), JUNK
    )
)
def test_whatever_a_table_holds_it_is_a_policy_or_errors_that_lie_in_it(table: dict[str, Any]) -> None:
    fields = errors_in(lambda: from_dict(table))
    assert {re.split(r"[.\[]", field)[0] for field in fields} <= set(table)
    if not fields:
        policy = from_dict(table)
        assert from_toml(to_toml(policy)) == policy


@given(text=st.text("[]{}=\"'\\.,#\n abct0123456789-+:_T", max_size=60))
def test_whatever_a_file_holds_it_is_a_policy_or_errors(text: str) -> None:
    assert "an error without a place" not in errors_in(lambda: from_toml(text))
