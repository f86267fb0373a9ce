"""The torture messages of RFC 4475 and RFC 5118, and what other projects feed to their parsers."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.model import ParseError, Scan
from agent.sip.address import parse_address
from agent.sip.message import Facts, Message, facts, parse
from agent.sip.scan import scan_py
from agent.sip.via import parse_via

# A robustness seed may not hold up a capture or a call: the longest took under 1 ms when this was written.
SEED_SECONDS = 0.05


def read(shared_data: Path, name: str) -> bytes:
    return (shared_data / "sip" / name).read_bytes()


def torture(shared_data: Path, name: str) -> Message:
    return parse(read(shared_data, f"rfc4475/{name}.dat"))


def cases(shared_data: Path, folder: str) -> list[dict[str, Any]]:
    manifest = json.loads(read(shared_data, f"{folder}/manifest.json"))
    found: list[dict[str, Any]] = manifest["cases"] if isinstance(manifest, dict) else manifest
    assert found
    return found


def outcome(raw: bytes) -> str:
    """ "refused", "flagged" or "clean"."""
    try:
        message = parse(raw)
    except ParseError:
        return "refused"
    return "flagged" if message.defects else "clean"


def test_rfc4475_messages_have_the_outcome_of_the_manifest(shared_data: Path) -> None:
    wrong = []
    for case in cases(shared_data, "rfc4475"):
        got = outcome(read(shared_data, f"rfc4475/{case['file']}"))
        if case["must_parse"] and got == "refused":
            wrong.append((case["file"], got))
        if case["reject_or_flag"] and got == "clean":
            wrong.append((case["file"], got))
    assert wrong == []


def test_rfc4475_valid_messages_have_no_defect(shared_data: Path) -> None:
    valid = [case["file"] for case in cases(shared_data, "rfc4475") if case["rfc_section"] == "3.1.1"]
    assert len(valid) == 13
    assert [file for file in valid if outcome(read(shared_data, f"rfc4475/{file}")) != "clean"] == []


def test_rfc4475_messages_that_are_only_wrong_in_meaning_are_not_called_malformed(shared_data: Path) -> None:
    for name in (
        "badbranch",
        "unksm2",
        "bext01",
        "invut",
        "regaut01",
        "zeromf",
        "cparam01",
        "cparam02",
        "regescrt",
        "sdp01",
        "inv2543",
    ):
        assert torture(shared_data, name).defects == (), name


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("badinv01", {"Via", "Contact"}),
        ("clerr", {"Content-Length"}),
        ("ncl", {"Content-Length"}),
        ("scalar02", {"CSeq", "Max-Forwards", "Expires", "Contact"}),
        ("scalarlg", {"CSeq", "Retry-After"}),
        ("quotbal", {"To"}),
        ("escruri", {"request-uri"}),
        ("baddate", {"Date"}),
        ("regbadct", {"Contact"}),
        ("badaspec", {"To"}),
        ("baddn", {"From", "To", "headers"}),  # the file lacks its last line
        ("mismatch01", {"CSeq"}),
        ("mismatch02", {"CSeq"}),
        ("insuf", {"Call-ID", "From", "To"}),
        ("unkscm", {"request-uri"}),
        ("novelsc", {"request-uri"}),
        ("multi01", {"Call-ID", "To", "From", "CSeq", "Max-Forwards"}),
        ("mcl01", {"Content-Length"}),
        ("bcast", {"Via"}),
    ],
)
def test_rfc4475_defect_is_found_where_it_is(shared_data: Path, name: str, places: set[str]) -> None:
    assert {defect.place for defect in torture(shared_data, name).defects} == places


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("ltgtruri", 7),
        ("lwsruri", 28),
        ("lwsstart", 7),
        ("trws", 45),
        ("badvers", 33),
        ("bigcode", 8),
    ],
)
def test_rfc4475_start_line_is_refused_at_the_byte(shared_data: Path, name: str, offset: int) -> None:
    with pytest.raises(ParseError) as refusal:
        torture(shared_data, name)
    assert (refusal.value.place, refusal.value.offset) == ("start-line", offset)


def test_short_tortuous_invite(shared_data: Path) -> None:
    message = torture(shared_data, "wsinv")
    it = facts(message)
    assert it.request_uri == b"sip:vivekg@chair-dnrc.example.com;unknownparam"
    assert (it.to_uri, it.to_tag) == (b"sip:vivekg@chair-dnrc.example.com", b"1918181833n")
    assert (it.from_uri, it.from_tag) == (b"sip:jdrosen@example.com", b"98asjd8")
    assert parse_address(message.first("From")).display == b'J Rosenberg \\"'
    assert (it.cseq, it.cseq_method) == (9, "INVITE")
    assert int(message.first("Max-Forwards")) == 68
    assert (it.content_length, len(message.body)) == (150, 150)
    assert it.call_id == b"wsinv.ndaksdj@192.0.2.1"
    assert (it.sent_by, it.branch) == (b"192.0.2.2", b"390skdjuw")
    assert message.header("Subject") == [b""]
    assert message.header("NewFangledHeader") == [b"newfangled value continued newfangled value"]
    assert [a.uri for a in message.addresses("Route")] == [
        b"sip:services.example.com;lr;unknownwith=value;unknown-no-value"
    ]
    assert message.addresses("m")[0].display == b'Quoted string ""'
    assert [row.name for row in message.rows if row.key == b"via"] == [b"Via", b"v"]


def test_unusual_characters_are_kept(shared_data: Path) -> None:
    message = torture(shared_data, "intmeth")
    assert message.method == "!interesting-Method0123456789_*+`.%indeed'~"
    assert parse_address(message.first("To")).display == b"BEL:\x07 NUL:\x00 DEL:\x7f"
    assert parse_address(message.first("From")).tag == b"_token~1'+`*%!-."
    assert message.header("extensionHeader-!.%*+_`'~") == ["\ufeff大停電".encode()]


def test_escapes_are_escapes_only_in_uris(shared_data: Path) -> None:
    message = torture(shared_data, "esc02")
    assert message.method == "RE%47IST%45R"
    assert [a.uri for a in message.addresses("Contact")] == [
        b"sip:alias1@host1.example.com",
        b"sip:alias3@host3.example.com",
    ]
    assert torture(shared_data, "esc01").addresses("Contact")[0].parsed_uri().subscriber == b"caller"
    assert torture(shared_data, "escnull").addresses("Contact")[1].parsed_uri().subscriber == b"\x00\x00"


def test_semicolon_in_the_user_is_no_parameter(shared_data: Path) -> None:
    message = torture(shared_data, "semiuri")
    uri = parse_address(b"<" + message.request_uri + b">").parsed_uri()
    assert (uri.user, uri.host, uri.params) == (b"user;par=u%40example.net", b"example.com", ())


def test_second_message_in_a_datagram_is_dropped(shared_data: Path) -> None:
    message = torture(shared_data, "dblreq")
    assert (message.method, message.body, facts(message).content_length) == ("REGISTER", b"", 0)
    assert facts(message).call_id == b"dblreq.0ha0isndaksdj99sdfafnl3lk233412"


def test_long_request_is_read_whole(shared_data: Path) -> None:
    message = torture(shared_data, "longreq")
    assert len(message.header("Via")) == 34
    assert facts(message).from_uri.startswith(b"sip:amazinglylongcallername")
    assert len(message.body) == 150


def test_unknown_transports_are_transports(shared_data: Path) -> None:
    vias = [parse_via(value) for value in torture(shared_data, "transports").header("Via")]
    assert [via.transport for via in vias] == [b"UDP", b"SCTP", b"TLS", b"UNKNOWN", b"TCP"]


def test_body_may_hold_anything(shared_data: Path) -> None:
    message = torture(shared_data, "mpart01")
    assert b"\x00" in message.body
    assert len(message.body) == facts(message).content_length


def test_what_is_refused_or_flagged_never_shows_another_caller(shared_data: Path) -> None:
    assert facts(torture(shared_data, "baddn")).from_uri == b"sip:a.g.bell@example.com"
    assert facts(torture(shared_data, "badaspec")).to_uri == b"sip:t.watson@example.org"
    assert facts(torture(shared_data, "quotbal")).to_uri == b""
    multi = facts(torture(shared_data, "multi01"))
    assert (multi.from_uri, multi.to_uri) == (b"sip:caller@example.com", b"sip:user@example.com")
    assert (multi.call_id, multi.cseq) == (b"multi01.98asdh@192.0.2.1", 5)


def test_rfc5118_messages_have_the_outcome_of_the_manifest(shared_data: Path) -> None:
    for case in cases(shared_data, "rfc5118"):
        got = outcome(read(shared_data, f"rfc5118/{case['file']}"))
        if case["must_parse"] is not None:  # None: RFC 5118 4.10 leaves the choice
            assert (got == "clean") == case["must_parse"], case["file"]


def test_rfc5118_ports(shared_data: Path) -> None:
    def request_uri(name: str) -> tuple[bytes, int | None]:
        uri = parse_address(b"<" + parse(read(shared_data, f"rfc5118/{name}")).request_uri + b">").parsed_uri()
        return uri.host, uri.port

    assert request_uri("port-ambiguous") == (b"[2001:db8::10:5070]", None)
    assert request_uri("port-unambiguous") == (b"[2001:db8::10]", 5070)


def test_rfc5118_received_parameters(shared_data: Path) -> None:
    for name, received in (("no", b"2001:db8::9:255"), ("with", b"[2001:db8::9:255]")):
        via = parse_via(parse(read(shared_data, f"rfc5118/via-received-param-{name}-delim")).first("Via"))
        assert (b"received", received) in via.params


def seeds(shared_data: Path) -> list[Path]:
    found = [
        path
        for folder in ("kamailio-misc", "pjsip-seeds", "belle-sip-afl", "rfc4475", "rfc5118")
        for path in sorted((shared_data / "sip" / folder).rglob("*"))
        if path.is_file()
    ]
    assert len(found) > 100
    return found


def test_robustness_seeds_neither_crash_nor_take_long(shared_data: Path) -> None:
    for path in seeds(shared_data):
        raw = path.read_bytes()[:65_535]
        for stream in (False, True):
            started = time.perf_counter()
            with contextlib.suppress(ParseError):
                facts(parse(raw, stream))
            assert time.perf_counter() - started < SEED_SECONDS, path


def test_every_cut_of_a_torture_message_is_read_as_scan_reads_it(shared_data: Path) -> None:
    for name in ("wsinv", "intmeth", "quotbal", "badinv01"):
        raw = read(shared_data, f"rfc4475/{name}.dat")
        for end in range(0, len(raw), 3):
            cut = raw[:end]
            assert fields_or_refusal(lambda raw: facts(parse(raw)), cut) == fields_or_refusal(scan_py, cut), (name, end)


def fields_or_refusal(read: Callable[[bytes], Scan], raw: bytes) -> dict[str, object] | str:
    try:
        it = read(raw)
    except ParseError as refusal:
        return str(refusal)
    return {field: getattr(it, field) for field in Facts.__slots__}
