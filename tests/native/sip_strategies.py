"""hypothesis strategies for SIP messages: well-formed ones, damaged ones, and soup of what parsers trip over."""

from hypothesis import strategies as st

from tests.benchmarks.messages import invite

START_LINES = (
    b"INVITE sip:+13035550199@sbc.example.net;user=phone SIP/2.0",
    b"BYE sip:a@example.com sip/2.0",
    b"RE%47IST%45R sips:a@example.com SIP/2.0",
    b"SIP/2.0 183 Session Progress",
    b"SIP/2.0 486",
    b"sip/2.0 200 ",
)
WANTED_NAMES = (
    b"Via", b"v", b"From", b"f", b"To", b"t", b"Call-ID", b"i", b"CSeq", b"Content-Length", b"l", b"Identity",
    b"y", b"P-Asserted-Identity", b"Diversion", b"Privacy", b"Priority", b"Resource-Priority",
)  # fmt: skip
OTHER_NAMES = (
    b"Contact", b"m", b"Vi", b"Viaa", b"Froms", b"Identity-Info", b"P-Asserted-Identit", b"Prio rity",
    b"Call ID", b"", b"Subject", b"Content-Type", b"Content-Lengths", b"C%6Fntact", b"Call\x0dID",
)  # fmt: skip
VALUES = (
    b"SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKa1;rport",
    b"SIP / 2.0 / TCP [2001:db8::10] : 5061 ; Branch = z9hG4bKa2 , SIP/2.0/UDP x;branch=z9hG4bKa3",
    b'"Caller, \\"C\\\\" <sip:x>" <sip:+12015550123@a.example.com;user=phone>;tag=9f',
    b"sip:+12015550123@a.example.com;user=phone;TAG=9f",
    b"<tel:+12015550123>, <sip:+12015550124@a.example.com>;x=1",
    b"7c1@192.0.2.10",
    b"0001 INVITE",
    b"4294967295 ACK",
    b"4294967296 ACK",
    b"217",
    b"eyJ9.e30.c2ln;info=<https://certs.example.net/1.pem>;alg=ES256;ppt=shaken",
    b"id;user",
    b"esnet.1",
)
# What readers disagree about: separators, white space of every kind, line ends, quotes, and odd bytes.
ATOMS = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\r\n ", b"\n\t", b" \r\n ", b"\r\r\n ", b'"', b"\\", b'\\"', b"<", b">",
    b",", b";", b"=", b":", b"/", b"@", b"[", b"]", b"\x00", b"\x0b", b"\x0c", b"\x1c", b"\x85", b"\xa0", b"\xff",
    b"tag", b";tag=", b";branch=", b"0", b"18446744073709551616", b"SIP/2.0", b" SIP/2.0", b"sip:a@example.com",
    b"\nVia:", b"\nf:", b"\nTo :", b"\nl:", b"\ny:", b"\nP-Asserted-Identity:", b"\nDiversion:", b"\nPriority:",
    b"\r\n\r\n", b"\n\n", b"x",
)  # fmt: skip

line_ends = st.sampled_from((b"\r\n", b"\r\n", b"\n"))
blanks = st.sampled_from((b"", b"", b"", b" ", b"\t", b" \t "))
soup = st.lists(st.one_of(st.sampled_from(ATOMS), st.sampled_from(VALUES), st.binary(max_size=3)), max_size=8).map(
    b"".join
)


@st.composite
def names(draw: st.DrawFn) -> bytes:
    """A header name in odd case, mostly one that screening wants."""
    name: bytes = draw(st.sampled_from(WANTED_NAMES + WANTED_NAMES + OTHER_NAMES))
    cases = (name, name.upper(), name.lower(), name.swapcase())
    return cases[draw(st.integers(0, 3))]


@st.composite
def values(draw: st.DrawFn) -> bytes:
    """A header value, perhaps folded where it has blanks, perhaps with an atom stuck in."""
    value = draw(st.one_of(st.sampled_from(VALUES), st.sampled_from(VALUES), soup))
    if draw(st.booleans()):
        value = value.replace(b" ", draw(line_ends) + draw(st.sampled_from((b" ", b"\t", b"  "))))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(value)))
        value = value[:at] + draw(st.sampled_from(ATOMS)) + value[at:]
    return value


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message of wanted and unwanted rows in any number and order, each with its own line end."""
    leading = draw(st.sampled_from((b"", b"", b"\r\n", b"\n\r\n")))
    parts = [leading, draw(st.sampled_from(START_LINES)), draw(line_ends)]
    for _ in range(draw(st.integers(0, 12))):
        parts += [draw(names()), draw(blanks), b":", draw(blanks), draw(values()), draw(line_ends)]
    parts.append(draw(st.sampled_from((b"\r\n", b"\n", b""))))
    parts.append(draw(st.sampled_from((b"", b"v=0\r\n", b"f: <sip:body>\n"))))
    return b"".join(parts)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """A message of `whole` with rows swapped, doubled, folded or cut, and bytes changed."""
    raw = draw(whole)
    for _ in range(draw(st.integers(1, 6))):
        at, to = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
        match draw(st.sampled_from(("insert", "replace", "delete", "cut", "swap rows", "double row", "fold"))):
            case "insert":
                raw = raw[:at] + draw(st.sampled_from(ATOMS)) + raw[at:]
            case "replace":
                raw = raw[:at] + draw(st.binary(min_size=1, max_size=2)) + raw[at + 1 :]
            case "delete":
                raw = raw[:at] + raw[min(to, at + 40) :]
            case "cut":
                raw = raw[:to]
            case "fold":
                raw = raw[:at] + b"\r\n " + raw[at:]
            case row_change:
                rows = raw.split(b"\n")
                one, other = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, len(rows) - 1))
                if row_change == "double row":
                    rows.insert(other, rows[one])
                else:
                    rows[one], rows[other] = rows[other], rows[one]
                raw = b"\n".join(rows)
    return raw


start_line_soup = st.lists(
    st.one_of(st.sampled_from(START_LINES), st.sampled_from(ATOMS), st.binary(max_size=3)), max_size=5
).map(b"".join)
anything = st.one_of(
    messages(), damaged(messages()), damaged(st.just(invite())), start_line_soup, soup, st.binary(max_size=300)
)
