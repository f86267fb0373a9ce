"""Texts and hypothesis strategies that the SIP tests share. Only well-formed messages come out of `messages`."""

from dataclasses import dataclass

from hypothesis import strategies as st

REQUEST = (
    b"INVITE sip:+13035550199@sbc.example.net;user=phone SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKa1;rport\r\n"
    b"Max-Forwards: 70\r\n"
    b'From: "Bo" <sip:+12015550123@a.example.com;user=phone>;tag=9f\r\n'
    b"To: <sip:+13035550199@sbc.example.net;user=phone>\r\n"
    b"Call-ID: 7c1@192.0.2.10\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"Content-Length: 4\r\n"
    b"\r\n"
    b"v=0\n"
)


def request(*rows: bytes, body: bytes = b"", without: tuple[bytes, ...] = (), method: bytes = b"INVITE") -> bytes:
    """A request with the mandatory rows less `without`, and `rows` (without line end) behind them."""
    mandatory = {
        b"Via": b"SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKa1",
        b"From": b"<sip:+12015550123@a.example.com>;tag=9f",
        b"To": b"<sip:+13035550199@sbc.example.net>",
        b"Call-ID": b"7c1@192.0.2.10",
        b"CSeq": b"1 " + method,
    }
    lines = [method + b" sip:+13035550199@sbc.example.net SIP/2.0"]
    lines += [name + b": " + value for name, value in mandatory.items() if name not in without]
    return b"\r\n".join([*lines, *rows, b"", body])


_TOKEN_CHARS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.!%*_+`'~"
tokens = st.text(_TOKEN_CHARS, min_size=1, max_size=12).map(str.encode)
# Everything that a quoted-string can hold once it is escaped: any byte but CR and LF (RFC 3261 25.1).
quoted_texts = st.binary(max_size=30).map(lambda raw: raw.translate(None, b"\r\n"))
hosts = st.sampled_from([b"a.example.com", b"192.0.2.10", b"[2001:db8::10]", b"x"])
users = st.sampled_from([b"+12015550123", b"alice", b"+12015550123;npdi;rn=+12015551000", b"a%20b", b"1,2;3?4/5"])
parameters = st.lists(st.tuples(tokens, st.none() | tokens), max_size=3, unique_by=lambda param: param[0].lower())


@dataclass(frozen=True)
class Written:
    """A message as bytes, with what was meant by it."""

    raw: bytes
    display: bytes
    from_uri: bytes
    tag: bytes
    body: bytes
    values: dict[str, bytes]


def _is_control(character: int) -> bool:
    return (character < 0x20 and character != 0x09) or character == 0x7F


_FOLDS = st.sampled_from([b" ", b"\t", b"  ", b"\r\n ", b"\r\n\t ", b" \r\n  ", b"\n "])


@st.composite
def messages(draw: st.DrawFn) -> Written:
    """A request whose header rows are written in every way that the grammar allows for the same meaning."""

    def lws() -> bytes:
        return draw(_FOLDS)

    def name(long: bytes, short: bytes = b"") -> bytes:
        spellings = [long, long.lower(), long.upper(), *([short, short.upper()] if short else [])]
        before, after = draw(st.sampled_from([b"", b" ", b"\t "])), draw(st.sampled_from([b"", b" ", b"\r\n "]))
        return draw(st.sampled_from(spellings)) + before + b":" + after

    display = draw(quoted_texts)
    escaped = b"".join(
        b"\\" + bytes([c]) if c in b'"\\' or _is_control(c) or (c < 0x80 and draw(st.booleans())) else bytes([c])
        for c in display
    )
    from_uri = b"sip:" + draw(users) + b"@" + draw(hosts)
    tag = draw(tokens)
    body = draw(st.binary(max_size=40))
    subject = lws().join([draw(tokens), draw(tokens)])
    call_id = draw(tokens)
    rows = [
        name(b"Via", b"v")
        + b"SIP"
        + lws()
        + b"/"
        + lws()
        + b"2.0/UDP"
        + lws()
        + b"192.0.2.10"
        + lws()
        + b":"
        + lws()
        + b"5060"
        + lws()
        + b";"
        + lws()
        + b"branch"
        + lws()
        + b"="
        + lws()
        + b"z9hG4bKa1",
        name(b"From", b"f")
        + b'"'
        + escaped
        + b'"'
        + lws()
        + b"<"
        + from_uri
        + b">"
        + lws()
        + b";"
        + lws()
        + b"tag"
        + lws()
        + b"="
        + lws()
        + tag,
        name(b"To", b"t") + b"<sip:+13035550199@sbc.example.net>",
        name(b"Call-ID", b"i") + call_id,
        name(b"CSeq") + b"0007" + lws() + b"INVITE",
        name(b"Subject", b"s") + subject,
        name(b"Content-Length", b"l") + b"%d" % len(body),
    ]
    end = draw(st.sampled_from([b"\r\n", b"\n"]))
    raw = (
        b"INVITE sip:+13035550199@sbc.example.net SIP/2.0"
        + end
        + b"".join(row + end for row in draw(st.permutations(rows)))
        + end
        + body
    )
    return Written(raw, display, from_uri, tag, body, {"Call-ID": call_id})
