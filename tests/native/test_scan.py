"""What the scan reads, field by field, in Python and compiled alike."""

import gc
import os
import subprocess
import sys
import time

import pytest

from agent import native
from agent.model import ParseError
from agent.sip.scan import MAX_MESSAGE, scan, scan_py
from tests.benchmarks.messages import SDP, invite, token
from tests.native.reading import Read, outcome

NATIVE = pytest.mark.skipif(native.sip is None, reason="agent.native._sip is not built, or SBC_EDGE_PURE=1")


@pytest.fixture(params=["python", pytest.param("native", marks=NATIVE)])
def read(request: pytest.FixtureRequest) -> Read:
    if request.param == "python":
        return scan_py
    assert native.sip is not None
    compiled: Read = native.sip.scan
    return compiled


def message(*rows: str, start: str = "INVITE sip:+13035550199@sbc.example.net SIP/2.0") -> bytes:
    return "\r\n".join([start, *rows, "", "body"]).encode("latin-1")


def test_every_field_of_a_signed_invite(read: Read) -> None:
    raw = invite()
    it = read(raw)
    assert it.raw is raw
    assert (it.method, it.status) == ("INVITE", 0)
    assert it.request_uri == b"sip:+13035550199@sbc.example.net;user=phone"
    assert (it.branch, it.sent_by) == (b"z9hG4bK-524287-1---7f3a9c0d", b"192.0.2.10:5060")
    assert it.call_id == b"1f0e2d3c-7b6a@192.0.2.10"
    assert (it.cseq, it.cseq_method) == (1, "INVITE")
    assert (it.from_uri, it.from_tag) == (b"sip:+12015550123@carrier.example.com;user=phone", b"9fd1a6")
    assert (it.to_uri, it.to_tag) == (b"sip:+13035550199@sbc.example.net;user=phone", b"")
    assert it.asserted == (b"sip:+12015550123@carrier.example.com;user=phone",)
    assert len(it.identity) == 1
    assert it.identity[0].startswith(token("12015550123", "13035550199", "1f0e2d3c-7b6a@192.0.2.10").encode())
    assert it.identity[0].endswith(b";alg=ES256;ppt=shaken")
    assert (it.diversion, it.privacy, it.priority, it.resource_priority) == ((), b"", b"", b"")
    assert it.content_length == len(SDP)
    assert raw[it.body_offset :] == SDP.encode()


def test_absent_headers_read_as_absent(read: Read) -> None:
    it = read(b"OPTIONS sip:example.com SIP/2.0\r\n\r\n")
    assert (it.branch, it.sent_by, it.call_id, it.cseq, it.cseq_method) == (b"", b"", b"", 0, "")
    assert (it.from_uri, it.from_tag, it.to_uri, it.to_tag) == (b"", b"", b"", b"")
    assert (it.asserted, it.identity, it.diversion) == ((), (), ())
    assert (it.privacy, it.priority, it.resource_priority) == (b"", b"", b"")
    assert (it.content_length, it.body_offset) == (-1, 35)


@pytest.mark.parametrize(
    ("start", "method", "uri", "status"),
    [
        ("BYE sip:a@example.com sip/2.0", "BYE", b"sip:a@example.com", 0),
        ("RE%47IST%45R~'`!*_+.- x SIP/2.0", "RE%47IST%45R~'`!*_+.-", b"x", 0),
        ("invite sip:\x80@example.com SIP/2.0", "invite", b"sip:\x80@example.com", 0),
        ("SIP sip:a SIP/2.0", "SIP", b"sip:a", 0),
        ("SIP/2.0 100 Trying", "", b"", 100),
        ("sip/2.0 699", "", b"", 699),
        ("SIP/2.0 200 ", "", b"", 200),
        ("SIP/2.0 200 = 2**3 * 5**2 \r x", "", b"", 200),
    ],
)
def test_usable_start_lines(read: Read, start: str, method: str, uri: bytes, status: int) -> None:
    for end in (b"", b"\r", b"\n", b"\r\n", b"\r\n\r\n"):
        it = read(b"\r\n\n" + start.encode("latin-1") + end)
        assert (it.method, it.request_uri, it.status) == (method, uri, status)


@pytest.mark.parametrize(
    ("start", "reason", "at"),
    [
        ("", "no start line", 0),
        (" INVITE sip:a SIP/2.0", "method is not a token followed by one space", 0),
        ("INVITE", "method is not a token followed by one space", 6),
        ("INV:TE sip:a SIP/2.0", "method is not a token followed by one space", 3),
        ("INVITE\tsip:a SIP/2.0", "method is not a token followed by one space", 6),
        ("INVITE  sip:a SIP/2.0", "no Request-URI after one space", 7),
        ("INVITE ", "no Request-URI after one space", 7),
        ("INVITE <sip:a> SIP/2.0", "Request-URI is enclosed in angle brackets", 7),
        ("INVITE sip:a", "no space and SIP version after the Request-URI", 12),
        ("INVITE sip:a\tSIP/2.0", "no space and SIP version after the Request-URI", 12),
        ("INVITE sip:a; lr SIP/2.0", "whitespace in the Request-URI", 13),
        ("INVITE sip:a  SIP/2.0", "whitespace in the Request-URI", 12),
        ("INVITE sip:a ", "whitespace in the Request-URI", 12),
        ("INVITE sip:a SIP/2.0 \t", "whitespace after the SIP version", 20),
        ("INVITE sip:a SIP/7.0", "version is not SIP/2.0", 13),
        ("INVITE sip:a SIP/2.0\r", "version is not SIP/2.0", 13),
        ("INVITE sip:a HTTP/1.1", "version is not SIP/2.0", 13),
        ("SIP/2.1 200 OK", "version is not SIP/2.0", 4),
        ("SIP/2.00 200 OK", "version is not SIP/2.0", 4),
        ("SIP/", "version is not SIP/2.0", 4),
        ("SIP/2.0", "status code is not three digits", 7),
        ("SIP/2.0 20", "status code is not three digits", 8),
        ("SIP/2.0 2000 OK", "status code is not three digits", 8),
        ("SIP/2.0  200 OK", "status code is not three digits", 8),
        ("SIP/2.0 200\tOK", "status code is not three digits", 8),
        ("SIP/2.0 700 OK", "status code is not within 100..699", 8),
        ("SIP/2.0 099 OK", "status code is not within 100..699", 8),
    ],
)
def test_unusable_start_lines_are_refused_with_place_reason_and_byte(
    read: Read, start: str, reason: str, at: int
) -> None:
    with pytest.raises(ParseError) as caught:
        read(b"\r\n" + start.encode("latin-1") + b"\r\nCall-ID: x\r\n\r\n" if start else b"\r\n")
    assert (caught.value.place, caught.value.reason, caught.value.offset) == ("start-line", reason, 2 + at)
    assert str(caught.value) == f"start-line: {reason} (at byte {2 + at})"


def test_a_message_of_65535_bytes_is_read_and_a_longer_one_refused(read: Read) -> None:
    most = message("Call-ID: x", "Subject: ").ljust(MAX_MESSAGE, b"x")
    it = read(most)
    assert (it.call_id, it.body_offset) == (b"x", most.index(b"body"))
    endless = b"OPTIONS sip:a SIP/2.0\r\nf: <sip:b>;tag=" + b"c" * MAX_MESSAGE
    it = read(endless[:MAX_MESSAGE])
    assert (len(it.from_tag), it.body_offset) == (MAX_MESSAGE - 38, MAX_MESSAGE)
    with pytest.raises(ParseError) as caught:
        read(most + b"x")
    assert (caught.value.place, caught.value.offset) == ("message", MAX_MESSAGE)


@pytest.mark.parametrize("other", [None, "INVITE", bytearray(b"x"), memoryview(b"x"), type("Sub", (bytes,), {})()])
def test_only_bytes_are_a_message(read: Read, other: object) -> None:
    with pytest.raises(TypeError, match="a message is bytes, not "):
        read(other)  # type: ignore[arg-type]


def test_names_are_read_in_any_case_and_with_blanks_before_the_colon(read: Read) -> None:
    it = read(message("cALL-id \t : x", "CSEQ:7 ACK", "FROM :<sip:a>", "p-ASSERTED-identity\t:<sip:b>"))
    assert (it.call_id, it.cseq, it.cseq_method, it.from_uri, it.asserted) == (b"x", 7, "ACK", b"sip:a", (b"sip:b",))


def test_compact_forms_are_the_same_headers(read: Read) -> None:
    it = read(message("v: SIP/2.0/UDP h;branch=b", "F: <sip:f>", "t: <sip:t>", "I: x", "L: 4", "y: tok"))
    assert (it.branch, it.sent_by, it.from_uri, it.to_uri) == (b"b", b"h", b"sip:f", b"sip:t")
    assert (it.call_id, it.content_length, it.identity) == (b"x", 4, (b"tok",))


def test_names_that_only_resemble_a_wanted_one_are_passed_over(read: Read) -> None:
    near = ("Viaa: x", "Vi: x", "Call-IDs: x", "Call\rID: x", "Identity-Info: x", "C%53eq: 1 X", "Call ID: x")
    it = read(message(*near, "\x00Call-ID: x", "No colon", ": x", ":"))
    assert (it.branch, it.call_id, it.identity, it.cseq) == (b"", b"", (), 0)


def test_the_first_row_of_a_single_header_counts_even_when_empty(read: Read) -> None:
    it = read(message("i: one", "Call-ID: two", "To:", "To: <sip:two>;tag=2", "l: x", "Content-Length: 2"))
    assert (it.call_id, it.to_uri, it.to_tag, it.content_length) == (b"one", b"", b"", -1)


def test_nothing_after_the_blank_line_is_a_header(read: Read) -> None:
    for end in ("\r\n", "\n"):
        raw = f"OPTIONS sip:a SIP/2.0{end}i: x{end}{end}f: <sip:body>{end}{end}".encode()
        it = read(raw)
        assert (it.call_id, it.from_uri) == (b"x", b"")
        assert raw[it.body_offset :].startswith(b"f: ")


def test_a_message_cut_before_the_blank_line_has_no_body(read: Read) -> None:
    for cut in (b"", b"\r", b"\r\n", b"\n"):
        it = read(b"OPTIONS sip:a SIP/2.0\r\nCall-ID: x" + cut)
        assert (it.call_id, it.body_offset) == (b"x", len(it.raw))


def test_a_continuation_belongs_to_the_row_above_whatever_that_is(read: Read) -> None:
    it = read(message(" i: start", "Subject: x", " i: subject", "no colon", "\ti: none", "i: this", " one"))
    assert it.call_id == b"this one"


def test_folds_read_as_one_space_except_in_identity(read: Read) -> None:
    it = read(message("i:\r\n a \t\r\n\t b", "y:  tok\r\n ;ppt=x \r\n ", "Privacy: id\r\n \r\n ;user"))
    assert it.call_id == b"a b"
    assert it.identity == (b"tok\r\n ;ppt=x",)
    assert it.privacy == b"id  ;user"


@pytest.mark.parametrize(
    ("value", "uri", "tag"),
    [
        ("<sip:a@x;user=phone>;tag=1", b"sip:a@x;user=phone", b"1"),
        ("sip:a@x;user=phone;tag=1", b"sip:a@x", b"1"),
        ("sip:a@x ;tag=1", b"sip:a@x", b"1"),
        ("tel:+12015550123", b"tel:+12015550123", b""),
        ("Caller<sip:a@x>", b"sip:a@x", b""),
        ("Last, First <sip:a@x>;tag=1", b"sip:a@x", b"1"),
        ('"A <sip:evil@y>;tag=2, \\"B\\\\" <sip:a@x>;tag=1', b"sip:a@x", b"1"),
        ('" < sip:b > " < sip:a@x > ; TAG = 1 ;x', b"sip:a@x", b"1"),
        ("<sip:a@x;tag=2>", b"sip:a@x;tag=2", b""),
        ('<sip:a@x>;y=";tag=2";tag=1;tag=3', b"sip:a@x", b"1"),
        ("<sip:a@x>junk;tag=1", b"sip:a@x", b"1"),
        ("<sip:a@x>;tag;tag=1", b"sip:a@x", b""),
        ("<sip:a@x>;tag=", b"sip:a@x", b""),
        ("<sip:a@x>;tags=1;xtag=2", b"sip:a@x", b""),
        ('<sip:a@x>;tag="q;r"', b"sip:a@x", b'"q;r"'),
        ("<>;tag=1", b"", b"1"),
        ("sip:a\x0b@x y", b"sip:a\x0b@x", b""),
        ("<sip:a@x;\r\n y=z>", b"sip:a@x; y=z", b""),
        ('"never closed <sip:a@x>;tag=1', b"", b""),
        ('"closed\\" <sip:a@x>;tag=1', b"", b""),
        ("<sip:a@x;tag=1", b"", b""),
        ('"name without address";tag=1', b"", b""),
        (";tag=1", b"", b"1"),
        ("", b"", b""),
    ],
)
def test_addresses_of_from_and_to(read: Read, value: str, uri: bytes, tag: bytes) -> None:
    it = read(message(f"From: {value}", f"t:{value} "))
    assert (it.from_uri, it.from_tag) == (uri, tag)
    assert (it.to_uri, it.to_tag) == (uri, tag)


@pytest.mark.parametrize(
    ("rows", "uris"),
    [
        (["<sip:a>"], (b"sip:a",)),
        (["<sip:a>, <tel:b>"], (b"sip:a", b"tel:b")),
        (["<sip:a>", '"X, Y" <tel:b>;p="," , sip:c;q'], (b"sip:a", b"tel:b", b"sip:c")),
        (["<sip:a,b>,,tel:c"], (b"sip:a,b", b"tel:c")),
        (["<sip:a>;tag=1,<sip:b>"], (b"sip:a", b"sip:b")),
        (["", ",", " , <>"], ()),
        (["<>"], ()),
        (["Last, First <sip:a>"], (b"Last", b"sip:a")),
        (['<sip:a>, "open, <sip:b>', "<sip:c>"], (b"sip:a", b"sip:c")),
        (["<sip:a>, <sip:b, <sip:c"], (b"sip:a",)),
        (["<sip:a>,\r\n <sip:b;\r\n\tc>"], (b"sip:a", b"sip:b; c")),
    ],
)
def test_lists_of_addresses_over_rows_and_commas(read: Read, rows: list[str], uris: tuple[bytes, ...]) -> None:
    it = read(message(*[f"P-Asserted-Identity: {row}" for row in rows], "Subject: x"))
    assert (it.asserted, it.diversion) == (uris, ())
    between = [line for row in rows for line in (f"diversion:{row}", "Subject: x")]
    it = read(message(*between))
    assert (it.asserted, it.diversion) == ((), uris)


def test_identity_rows_are_not_split_and_keep_their_order(read: Read) -> None:
    it = read(message("Identity: a.b.c;info=<https://x>, d.e.f", "From: <sip:x>", "y:", "IDENTITY: g"))
    assert it.identity == (b"a.b.c;info=<https://x>, d.e.f", b"", b"g")


def test_rows_of_privacy_and_priorities_are_joined(read: Read) -> None:
    it = read(message("Privacy: id;user ", "Resource-Priority: esnet.1", "privacy:none", "Priority:", "priority: x",
                      "Resource-Priority: wps.3, ets.1", "Resource-Priority: z"))  # fmt: skip
    assert (it.privacy, it.priority) == (b"id;user,none", b",x")
    assert it.resource_priority == b"esnet.1,wps.3, ets.1,z"


@pytest.mark.parametrize(
    ("value", "branch", "sent_by"),
    [
        ("SIP/2.0/UDP h:5060;branch=b;rport", b"b", b"h:5060"),
        ("SIP/2.0/UDP [2001:db8::1]:5060;received=2001:db8::2;BRANCH=b", b"b", b"[2001:db8::1]:5060"),
        ("SIP / 2.0 / UDP  h : 5060 ; branch = b", b"b", b"h:5060"),
        ("SIP/2.0/UDP h ;branch=b", b"b", b"h"),
        ("SIP/2.0/UDP h\r\n :\r\n 5060;\r\n branch\r\n =\r\n b", b"b", b"h:5060"),
        ("SIP/2.0/UDP h, SIP/2.0/UDP i;branch=c", b"", b"h"),
        ('SIP/2.0/UDP h;x=",;branch=c";branch=b, SIP/2.0/UDP i', b"b", b"h"),
        ("SIP/2.0/UDP h,i;branch=b", b"", b"h"),
        ("SIP/2.0/UDP h;branchx=c;branch=b;branch=d", b"b", b"h"),
        ("SIP/2.0/UDP h;branch", b"", b"h"),
        ("SIP/2.0/UDP", b"", b""),
        ("SIP/2.0 h;branch=b", b"b", b""),
        ("SIP/2.0/UDP a b : 1 ;branch=b", b"b", b"a b:1"),
        ('SIP/2.0/UDP h";branch=b', b"", b'h";branch=b'),
        (",SIP/2.0/UDP h;branch=b", b"", b""),
        ("", b"", b""),
    ],
)
def test_topmost_via(read: Read, value: str, branch: bytes, sent_by: bytes) -> None:
    it = read(message(f"Via: {value}", "v: SIP/2.0/UDP second;branch=second"))
    assert (it.branch, it.sent_by) == (branch, sent_by)


@pytest.mark.parametrize(
    ("value", "number", "method"),
    [
        ("1 INVITE", 1, "INVITE"),
        ("0009\r\n  INVITE ", 9, "INVITE"),
        ("0 x!", 0, "x!"),
        ("4294967295 ACK", 4294967295, "ACK"),
        ("4294967296 ACK", 0, "ACK"),
        ("18446744073709551617 ACK", 0, "ACK"),
        ("9" * 5000 + " ACK", 0, "ACK"),
        ("0" * 5000 + "7 ACK", 7, "ACK"),
        ("1 INVITE x", 0, ""),
        ("1 IN:VITE", 0, ""),
        ("1INVITE", 0, ""),
        ("-1 INVITE", 0, ""),
        ("+1 INVITE", 0, ""),
        ("1", 0, ""),
        ("\xb2 INVITE", 0, ""),
        ("", 0, ""),
    ],
)
def test_cseq(read: Read, value: str, number: int, method: str) -> None:
    it = read(message(f"CSeq: {value}"))
    assert (it.cseq, it.cseq_method) == (number, method)


@pytest.mark.parametrize(
    ("value", "length"),
    [
        ("0", 0),
        (" 0217\t", 217),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", 2**63 - 1),
        ("9" * 5000, 2**63 - 1),
        ("0" * 5000 + "4", 4),
        ("-1", -1),
        ("+1", -1),
        ("1_0", -1),
        ("1 0", -1),
        ("1,1", -1),
        ("0x1", -1),
        ("\xb2", -1),
        ("", -1),
    ],
)
def test_content_length(read: Read, value: str, length: int) -> None:
    assert read(message(f"Content-Length:{value}")).content_length == length


@pytest.mark.parametrize(
    "unit",
    [b"f", b" ", b"\t\r", b"\n ", b"\r\n \r\n\t", b"y:\n", b"p-asserted-identity:<\n", b'diversion:"\n', b"i\n", b":"],
)
@pytest.mark.parametrize("filler", [b'"', b"<", b"\\", b",", b";", b"=", b"/", b": ", b"a,", b"<>,", b'"",', b";a="])
def test_hostile_messages_take_linear_time(read: Read, unit: bytes, filler: bytes) -> None:
    """64 kB in well under a second; what is quadratic takes minutes."""
    head = b"INVITE sip:a SIP/2.0\r\n"
    names = (b"Via: SIP/2.0/UDP ", b"From: ", b"To:", b"P-Asserted-Identity: ", b"CSeq: 1")
    share = MAX_MESSAGE // (len(names) + 1)
    rows = [name + (filler * share)[: share - len(name) - 2] + b"\r\n" for name in names]
    raw = head + b"".join(rows)
    raw += (unit * MAX_MESSAGE)[: MAX_MESSAGE - len(raw)]
    before = time.perf_counter()
    assert outcome(read, raw)["request_uri"] == b"sip:a"
    assert time.perf_counter() - before < 2


def test_the_compiled_twin_is_used_unless_python_is_asked_for() -> None:
    program = "from agent.sip import scan as s; print(s.scan is s.scan_py)"
    environment = os.environ | {"SBC_EDGE_PURE": "1"}
    forced = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert forced.stdout.strip() == b"True"
    assert (scan is scan_py) == (native.sip is None)


@NATIVE
def test_the_compiled_twin_gives_interned_methods_and_the_very_message() -> None:
    raw = invite()
    assert scan(raw).raw is raw
    assert scan(raw).method is sys.intern("INVITE")
    assert scan(raw).cseq_method is sys.intern("INVITE")


@NATIVE
def test_a_compiled_scan_cannot_be_made_or_changed_by_hand() -> None:
    it = scan(invite())
    with pytest.raises(TypeError):
        type(it)()
    with pytest.raises(AttributeError):
        it.method = "BYE"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        it.other = 1  # type: ignore[attr-defined]


@NATIVE
def test_a_compiled_scan_outlives_the_name_of_its_message_and_leaks_nothing() -> None:
    corpus = [invite(), message("P-Asserted-Identity: <sip:a>, <sip:b>", "i: a\r\n b", "y: a", "y: b", "Privacy: a",
                                "Privacy: b", "v: SIP/2.0/UDP a : b", "Diversion: <sip:a"), b"refused"]  # fmt: skip

    def work() -> None:
        for _ in range(50):
            for raw in corpus:
                try:
                    it = scan(bytes(bytearray(raw)))
                except ParseError:
                    continue
                for name in dir(it):
                    getattr(it, name)

    work()
    gc.collect()
    blocks = sys.getallocatedblocks()
    for _ in range(10):
        work()
    gc.collect()
    # 30,000 attribute reads; a leak of one object in any of them shows as hundreds of blocks.
    assert sys.getallocatedblocks() - blocks < 100
