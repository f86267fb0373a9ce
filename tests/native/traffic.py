"""Made-up signalling for comparing the compiled hot path with the reference: every kind of message that may come.

Few callers, calls and branches, so that copies, forks and retries come by themselves.
"""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from sbcedge.policy.v1 import policy_pb2 as pb

# What sends: the last byte of 127.0.0.0/8. 9 is claimed by no trunk, 10 is the SBC itself.
SENDERS = (2, 3, 4, 5, 6, 7, 9, 10)
SECRET = b"the same for both"

FROM_URIS = (
    "sip:+12015550100@a.example.net;user=phone", "sip:+12015550101@a.example.net", "sip:12015550102@a.example.net",
    "sip:2015550103@a.example.net", "sips:+12015550104@a.example.net",
    "sip:+12015550123@a.example.net",  # on the list
    "sip:+12015550124;npdi@a.example.net", "sip:+1201-555-0123@a.example.net", "tel:+12015550123", "tel:+442079460123",
    "sip:+442079460123@a.example.net", "sip:anonymous@anonymous.invalid", "sip:alice@a.example.net",
    "sip:+11015550123@a.example.net",  # no number of the plan
    "sip:+13035550911@psap.example.net", "sip:0114420794601234@a.example.net", "", "sip:%2b12015550123@a.example.net",
)  # fmt: skip
TO_URIS = (
    "sip:+13035550199@sbc.example.net;user=phone", "sip:+13035550198@sbc.example.net:5060",
    "sip:3035550197@sbc.example.net", "sip:911@sbc.example.net", "sip:+1911@sbc.example.net", "urn:service:sos",
    "sip:bob@sbc.example.net", "tel:+13035550196",
    "sip:+442079460999@sbc.example.net", "sip:+13035550195@sbc.example.net;transport=tcp", "sip:933@sbc.example.net",
    "sip:+13035550190@sbc.example.net", "sip:+13035550199@[2001:db8::1]:5060",
)  # fmt: skip
ODD_ROWS = (
    "Priority: psap-callback", "Priority: normal", "Resource-Priority: esnet.1", "Privacy: id", "Subject: a\r\n fold",
    "Diversion: <sip:+12015550109@a.example.net>", "Record-Route: <sip:p.example.net;lr>", "X: " + "y" * 900,
)  # fmt: skip
IDENTITY = "Identity: eyJ.eyJ.c2ln;info=<https://certs.example.net/1.pem>;alg=ES256;ppt=shaken"


@dataclass(frozen=True)
class Sent:
    """One datagram, and when it comes after the one before it. An ACK gets the tag of the call that it names."""

    sender: int
    raw: bytes
    later: float
    is_ack: bool = False


@st.composite
def rows_of(draw: st.DrawFn, method: str, call: int, branch: int) -> list[str]:
    """The header rows of a request, mostly plain."""
    from_uri, to_uri = draw(st.sampled_from(FROM_URIS)), draw(st.sampled_from(TO_URIS))
    to_tag = draw(st.sampled_from(("",) * 12 + (";tag=abc",)))
    via = draw(st.sampled_from(("Via: ",) * 6 + ("v:", "Via : ", "via:  ")))
    name = draw(st.sampled_from(("", '"A, B" ', "A ")))
    rport = draw(st.sampled_from((";rport", "", ";rport;x=1", ";received=192.0.2.1")))
    rows = [
        f"{via}SIP/2.0/UDP 192.0.2.10:{draw(st.sampled_from((5060, 5070)))}{rport};branch=z9hG4bK{branch}",
        f"From: {name}<{from_uri}>;tag={draw(st.sampled_from(('t', 't', 't', '')))}",
        f"To: <{to_uri}>{to_tag}",
        f"Call-ID: {call}@a.example.net",
        f"CSeq: {draw(st.sampled_from((1, 1, 1, 2)))} {method}",
        *(f"P-Asserted-Identity: <{uri}>" for uri in draw(st.lists(st.sampled_from(FROM_URIS), max_size=3))),
        *draw(st.lists(st.sampled_from((*ODD_ROWS, IDENTITY)), max_size=2)),
        "Content-Length: 0",
    ]
    if draw(st.integers(0, 9)) == 0:
        rows.insert(1, "Via: SIP/2.0/UDP 192.0.2.99;branch=z9hG4bKfirst")
    oddity = draw(st.integers(0, 24))
    at = draw(st.integers(0, len(rows) - 1))
    if oddity == 0:
        del rows[at]
    elif oddity == 1:
        rows[at] = rows[at].replace(":", ":\r\n ", 1)
    elif oddity == 2:
        rows[at] = rows[at].replace("e", "\0", 1)
    elif oddity == 3:
        rows.insert(0, rows[at])
    return rows


@st.composite
def messages(draw: st.DrawFn) -> Sent:
    """One datagram."""
    method = draw(
        st.sampled_from(("INVITE",) * 12 + ("ACK", "ACK", "ACK", "CANCEL", "OPTIONS", "BYE", "invite", "FOO"))
    )
    call, branch = draw(st.integers(0, 12)), draw(st.integers(0, 2))
    rows = draw(rows_of(method, call, branch))
    uri = rows[2].partition("<")[2].partition(">")[0] if len(rows) > 2 and draw(st.integers(0, 9)) else "sip:x@y"
    start = draw(
        st.sampled_from((f"{method} {uri} SIP/2.0",) * 20 + (f"{method} {uri} SIP/3.0", "SIP/2.0 200 OK", "", "x"))
    )
    end = draw(st.sampled_from(("\r\n",) * 20 + ("\n",)))
    raw = end.join([start, *rows, "", ""]).encode()
    if draw(st.integers(0, 40)) == 0:
        raw = raw[: draw(st.integers(0, len(raw)))]
    sender = draw(st.sampled_from(SENDERS))
    return Sent(sender, raw, draw(st.sampled_from((0.0, 0.0, 0.01, 0.4, 3.0, 40.0))), method == "ACK")


@st.composite
def traffic(draw: st.DrawFn) -> list[list[Sent]]:
    """Batches of datagrams; some come again, from whom they came."""
    sent = draw(st.lists(messages(), min_size=1, max_size=50))
    again = draw(st.lists(st.integers(0, len(sent) - 1), max_size=20))
    for at in again:
        sent.insert(draw(st.integers(0, len(sent))), sent[at])
    cuts = sorted(draw(st.sets(st.integers(1, len(sent)), max_size=5)))
    return [sent[first:last] for first, last in zip([0, *cuts], [*cuts, len(sent)], strict=True) if first < last]


def limits() -> list[pb.Limit]:
    """Of every scope, enforced and in shadow, with conditions; low enough to be met."""
    return [
        pb.Limit(name="all", scope=pb.SCOPE_GLOBAL, rate=20, burst=25, warn_at=0.5),
        pb.Limit(name="trunk", scope=pb.SCOPE_TRUNK, rate=2, burst=8, drop_above=12),
        pb.Limit(name="calling", scope=pb.SCOPE_CALLING, rate=0.2, burst=3),
        pb.Limit(name="called", scope=pb.SCOPE_CALLED, rate=0.2, burst=4, mode=pb.MODE_SHADOW),
        pb.Limit(name="customer", scope=pb.SCOPE_CUSTOMER, rate=1, burst=4),
        pb.Limit(name="some", scope=pb.SCOPE_CALLED, rate=0.1, burst=2, trunks=["plain"]),
    ]


def policies() -> list[pb.Policy]:
    """From one without rules to one with all that the gate has words for, and some that it has none for."""
    trunks = [
        pb.Trunk(id="plain", sources=["127.0.0.2"], default_country="1"),
        pb.Trunk(
            id="trusted", sources=["127.0.0.3"], trust_asserted_identity=True,
            redirect=pb.RedirectAnswer(code=302, next_hop="core.example.net:5060"),
        ),
        pb.Trunk(id="british", sources=["127.0.0.4"], default_country="44", customer="acme"),
        pb.Trunk(id="blocked", sources=["127.0.0.5"], upstream="bad", redirect=pb.RedirectAnswer(code=503)),
        pb.Trunk(id="owner", sources=["127.0.0.6"], customer="corp"),
        pb.Trunk(id="psap", sources=["127.0.0.7"]),
    ]  # fmt: skip
    own: Any = {"local_addresses": ["127.0.0.10"], "trunks": trunks, "customers": [
        pb.Customer(id="acme"), pb.Customer(id="corp", numbers=["+12015550100"])]}  # fmt: skip
    everything = pb.Policy(
        **own,
        emergency=pb.EmergencyRule(psap_calling=["+13035550911"], psap_sources=["127.0.0.7"]),
        provider_block=pb.ProviderBlockRule(blocks=[pb.ProviderBlock(upstream="bad")]),
        do_not_originate=pb.DoNotOriginateRule(lists=["small"], answer=pb.AnswerSpec(code=403)),
        caller_id_authorisation=pb.CallerIdRule(warn_first=1, period_seconds=60),
        limits=limits(),
        subscriber_lists=pb.SubscriberListRule(
            lists=[pb.SubscriberList(called="+13035550190", unwanted=["+12015550101"])]
        ),
    )
    prefixed = pb.Policy(
        **own, limits=[pb.Limit(name="p", scope=pb.SCOPE_CALLED_PREFIX, called_prefixes=["1303"], rate=1, burst=2)]
    )
    shadow = pb.Policy(
        **own, do_not_originate=pb.DoNotOriginateRule(lists=["small"], mode=pb.MODE_SHADOW), limits=limits()[:2]
    )
    sessions = pb.Policy(**own, limits=[pb.Limit(name="s", scope=pb.SCOPE_TRUNK, sessions=3)])
    return [pb.Policy(**own), everything, prefixed, shadow, sessions]
