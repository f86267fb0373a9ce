"""Numbers out of addresses: every form that trunks send, read by both twins."""

from collections.abc import Callable

import pytest

from agent import native
from agent.model import NO_NUMBER, Number, NumberKind
from agent.numbers.reading import MAX_DIALLED, read_by_stages, read_number_py

Reader = Callable[[bytes, str], Number]

READERS = [pytest.param(read_number_py, id="python"), pytest.param(read_by_stages, id="stages")]
if native.numbers is not None:
    READERS.append(pytest.param(native.numbers.read_number, id="native"))


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest) -> Reader:
    reader: Reader = request.param
    return reader


NANP, INVALID, FOREIGN = NumberKind.NANP, NumberKind.NANP_INVALID, NumberKind.FOREIGN
SHORT, AMBIGUOUS = NumberKind.SHORT, NumberKind.AMBIGUOUS
ANONYMOUS, NAME, ABSENT = NumberKind.ANONYMOUS, NumberKind.NOT_A_NUMBER, NumberKind.ABSENT


@pytest.mark.parametrize(
    "uri",
    [
        b"sip:+12015550123@a.example;user=phone",
        b"sip:+12015550123@a.example;user=phone;tag=1",
        b"sip:12015550123@a.example",
        b"sip:2015550123@a.example",
        b"sips:2015550123@a.example",
        b"SIP:+12015550123@a.example",
        b"TeL:+12015550123",
        b"tel:+1-201-555-0123;ext=9",
        b"tel:+1(201)555.0123;isub=7",
        b"tel:2015550123;phone-context=+1",
        b"tel:201-555-0123;phone-context=+1",
        b"tel:12015550123;phone-context=+1",
        b"tel:5550123;phone-context=+1201",
        b"tel:555-0123;Phone-Context=+1-201",
        b"tel:5550123;phone-context=%2B1201",
        b"tel:0123;phone-context=+1201555",
        b"tel:2015550123;phone-context=a.example",
        b"tel:+12015550123;phone-context=+44",
        b"sip:5550123;phone-context=+1201@gw.example;user=phone",
        b"sip:+12015550123;npdi;rn=+12015551000@gw;user=phone",
        b"sip:+1201555%30123@gw",
        b"sip:%2b12015550123@gw",
        b"sip:+12015550123;verstat=TN-Validation-Passed@gw;user=phone",
        b"sip:+12015550123:secret@gw",
        b"sip:+12015550123;a=b:secret@gw",
        b"sip:+1%20201%20555%200123@gw",
        b"sip:+12015550123@[2001:db8::1]:5060",
        b"sip:+12015550123@anonymous.invalid",
        b"sip:+12015550123",
        b"sip:2015550123;user=phone",
        b"sip:01112015550123@gw",
    ],
)
def test_every_form_of_one_number_reads_the_same(read: Reader, uri: bytes) -> None:
    assert read(uri, "1") == Number(NANP, "12015550123", 2015550123)


@pytest.mark.parametrize(
    ("uri", "country", "kind", "digits"),
    [
        # international prefixes
        (b"sip:011442079460123@gw", "1", FOREIGN, "442079460123"),
        (b"sip:0112015550123@gw", "1", FOREIGN, "2015550123"),
        (b"sip:00442079460123@gw", "49", FOREIGN, "442079460123"),
        (b"sip:00442079460123@gw", "1", AMBIGUOUS, "00442079460123"),
        (b"sip:00442079460123@gw", "", AMBIGUOUS, "00442079460123"),
        (b"sip:011442079460123@gw", "", AMBIGUOUS, "011442079460123"),
        (b"sip:0110442079460123@gw", "1", AMBIGUOUS, "0110442079460123"),
        # other countries
        (b"sip:+442079460123@gw", "1", FOREIGN, "442079460123"),
        (b"sip:+442079460123@gw", "", FOREIGN, "442079460123"),
        (b"sip:2079460123@gw", "44", FOREIGN, "442079460123"),
        (b"sip:02079460123@gw", "44", FOREIGN, "442079460123"),
        (b"sip:0612345678@gw", "39", FOREIGN, "390612345678"),
        (b"sip:13812345678@gw", "86", FOREIGN, "8613812345678"),
        (b"tel:2079460123;phone-context=+44", "1", FOREIGN, "442079460123"),
        (b"tel:79460123;phone-context=+4420", "1", FOREIGN, "442079460123"),
        (b"sip:447700900123@gw", "44", AMBIGUOUS, "447700900123"),
        (b"sip:447700900123@gw", "1", AMBIGUOUS, "447700900123"),
        # country not stated
        (b"sip:2015550123@gw", "", AMBIGUOUS, "2015550123"),
        (b"sip:4420718387@gw", "", AMBIGUOUS, "4420718387"),
        (b"sip:5550123@gw", "1", AMBIGUOUS, "5550123"),
        (b"sip:99115550123@gw", "1", AMBIGUOUS, "99115550123"),
        (b"sip:+02015550123@gw", "1", AMBIGUOUS, "02015550123"),
        (b"sip:+4420794601230000@gw", "1", AMBIGUOUS, "4420794601230000"),
        # short codes
        (b"sip:911@gw", "1", SHORT, "911"),
        (b"sip:911@gw;user=phone", "1", SHORT, "911"),
        (b"sip:+1911@gw", "1", SHORT, "911"),
        (b"sip:1911@gw", "1", SHORT, "911"),
        (b"sip:+911@gw", "1", SHORT, "911"),
        (b"tel:911;phone-context=+1", "1", SHORT, "911"),
        (b"tel:911;phone-context=+1", "44", SHORT, "911"),
        (b"tel:911;phone-context=+1201", "1", SHORT, "911"),
        (b"sip:911@gw", "", SHORT, "911"),
        (b"sip:911@gw", "44", SHORT, "911"),
        (b"sip:911", "1", SHORT, "911"),
        (b"sip:933@gw", "1", SHORT, "933"),
        (b"sip:112@gw", "1", SHORT, "112"),
        (b"sip:%39%31%31@gw", "1", SHORT, "911"),
        (b"sip:9-1-1@gw", "1", SHORT, "911"),
        (b"sip:211@gw", "1", SHORT, "211"),
        (b"sip:*67@gw", "1", SHORT, "*67"),
        (b"sip:#31#@gw", "1", SHORT, "#31#"),
        (b"sip:%2A67@gw", "1", SHORT, "*67"),
        (b"sip:123456@gw", "1", SHORT, "123456"),
        (b"sip:9911@gw", "1", SHORT, "9911"),
        (b"sip:1234@gw", "1", SHORT, "1234"),
        (b"sip:0@gw", "1", SHORT, "0"),
        # no numbers
        (b"", "1", ABSENT, ""),
        (b"sip:a.example", "1", ABSENT, ""),
        (b"sip:192.0.2.1", "1", ABSENT, ""),
        (b"sip:@a.example", "1", ABSENT, ""),
        (b"sip::secret@a.example", "1", ABSENT, ""),
        (b"sip:;x=y@a.example", "1", ABSENT, ""),
        (b"sip:", "1", ABSENT, ""),
        (b"tel:", "1", ABSENT, ""),
        (b"sip:911:5060", "1", ABSENT, ""),
        (b"sip:alice@a.example", "1", NAME, ""),
        (b"sip:alice%40home@a.example", "1", NAME, ""),
        (b"urn:service:sos", "1", NAME, ""),
        (b"http://a.example/2015550123", "1", NAME, ""),
        (b"2015550123", "1", NAME, ""),
        (b"sip:+@a.example", "1", NAME, ""),
        (b"sip:---@a.example", "1", NAME, ""),
        (b"sip:++12015550123@gw", "1", NAME, ""),
        (b"sip:1201555+0123@gw", "1", NAME, ""),
        (b"sip:+*67@gw", "1", NAME, ""),
        (b"sip:1-800-FLOWERS@gw", "1", NAME, ""),
        (b"tel:2015550123@gw", "1", NAME, ""),
        # escapes and characters that must not pass
        (b"sip:2015550123%00@gw", "1", NAME, ""),
        (b"sip:201555%0d%0a0123@gw", "1", NAME, ""),
        (b"sip:201555\x000123@gw", "1", NAME, ""),
        (b"sip:201555%3@gw", "1", NAME, ""),
        (b"sip:201555%zz0123@gw", "1", NAME, ""),
        (b"sip:201555012%@gw", "1", NAME, ""),
        ("sip:٢٠١٥٥٥٠١٢٣@gw".encode(), "1", NAME, ""),
        ("sip:２０１５５５０１２３@gw".encode(), "1", NAME, ""),
        (b"sip:%D9%A2015550123@gw", "1", NAME, ""),
        (b"sip:201555012\xb2@gw", "1", NAME, ""),
        (b"sip:" + b"1" * (MAX_DIALLED + 1) + b"@gw", "1", NAME, ""),
        (b"sip:" + b"1" * MAX_DIALLED + b"@gw", "1", AMBIGUOUS, "1" * MAX_DIALLED),
        # anonymous
        (b"sip:anonymous@anonymous.invalid", "1", ANONYMOUS, ""),
        (b"sip:Anonymous@a.example", "1", ANONYMOUS, ""),
        (b"sip:%61nonymous@a.example", "1", ANONYMOUS, ""),
        (b"sip:restricted@a.example;user=phone", "1", ANONYMOUS, ""),
        (b"sip:unavailable@unknown.invalid", "1", ANONYMOUS, ""),
        (b"sip:c8oqz84zk7z@anonymous.invalid", "1", ANONYMOUS, ""),
        (b"sip:anonymous.invalid", "1", ANONYMOUS, ""),
        (b"sip:x@ANONYMOUS.invalid:5060;transport=udp", "1", ANONYMOUS, ""),
        (b"sip:anonymous1@a.example", "1", NAME, ""),
        (b"sip:unavailable-room@a.example", "1", NAME, ""),
    ],
)
def test_form_reads_as(read: Reader, uri: bytes, country: str, kind: NumberKind, digits: str) -> None:
    assert read(uri, country) == Number(kind, digits, -1)


@pytest.mark.parametrize(
    ("uri", "digits", "national"),
    [
        (b"sip:+12110550123@gw", "12110550123", 2110550123),
        (b"sip:12110550123@gw", "12110550123", 2110550123),
        (b"sip:2110550123@gw", "12110550123", 2110550123),
        (b"sip:4420718387@gw", "14420718387", 4420718387),
        (b"sip:+10005550123@gw", "10005550123", 5550123),
        (b"sip:+1201555012@gw", "1201555012", -1),
        (b"sip:+120155501234@gw", "120155501234", -1),
        (b"sip:+1@gw", "1", -1),
        (b"sip:+1912@gw", "1912", -1),
    ],
)
def test_plus_one_without_a_number_of_the_plan_is_invalid(read: Reader, uri: bytes, digits: str, national: int) -> None:
    assert read(uri, "1") == Number(INVALID, digits, national)


def test_eleven_digits_with_1_are_nanp_where_no_country_is_stated(read: Reader) -> None:
    assert read(b"sip:12015550123@gw", "") == Number(NANP, "12015550123", 2015550123)
    assert read(b"sip:12115550123@gw", "") == Number(INVALID, "12115550123", 2115550123)


def test_number_that_only_contains_911_is_not_911(read: Reader) -> None:
    for user in (b"99115550123", b"9115550123", b"+19115550123", b"5559110", b"9110", b"0911"):
        assert read(b"sip:" + user + b"@gw", "1").digits != "911"


def test_absent_user_is_the_one_absent_number(read: Reader) -> None:
    assert read(b"", "1") is NO_NUMBER
    assert read(b"sip:a.example", "1") is NO_NUMBER


def test_result_is_the_named_tuple_with_its_kind(read: Reader) -> None:
    number = read(b"sip:+12015550123@gw", "1")
    assert type(number) is Number
    assert number.kind is NumberKind.NANP
    assert number._asdict() == {"kind": NumberKind.NANP, "digits": "12015550123", "national": 2015550123}


@pytest.mark.parametrize("country", ["0", "01", "1234", "us", "+1", " 1", "none", "１", "1\n"])
def test_default_country_that_is_no_country_code_is_refused(read: Reader, country: str) -> None:
    with pytest.raises(ValueError, match="not a country code"):
        read(b"sip:2015550123@gw", country)
