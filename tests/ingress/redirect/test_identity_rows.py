"""Identity rows come back byte for byte: through the hook, and in the 302 of a trunk that asks for it."""

import random

from agent.ingress.hook import wire
from agent.screening import Screening
from agent.service import NOTHING_ADDED, Service
from agent.sip.message import parse
from sbcedge.policy.v1 import policy_pb2 as pb
from sbcedge.screening.v1 import screening_pb2 as screening
from tests.fakes.calls import invite, observe, policy
from tests.ingress.redirect.test_responder import SOURCE, responder

ROWS = 10_000
NAMES = ("Identity", "identity", "IDENTITY", "y", "Y", "iDeNtItY")
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Keep:
    def put(self, decision: object) -> None:
        pass


def service() -> Service:
    redirect = pb.RedirectAnswer(next_hop="core.example.net", identity=True)
    trunk = pb.Trunk(id="peer", sources=[SOURCE[0]], redirect=redirect)
    return Service(Screening(policy(pb.Policy(trunks=[trunk]))), Keep())


def token(chance: random.Random, longest: int) -> str:
    return ".".join("".join(chance.choices(BASE64URL, k=chance.randint(1, longest))) for _ in range(3))


def a_row(chance: random.Random) -> tuple[str, str]:
    """A name in some case, and a value: folded, with blanks, odd parameters, now and then far too long."""
    longest = 12_000 if chance.random() < 0.01 else 300
    parameters = ["info=<https://certs.example.net/sti/1234.pem>", "alg=ES256", 'ppt="shaken"', "ppt=div", "x=\t1", "X"]
    chance.shuffle(parameters)
    pieces = [token(chance, longest), *parameters[: chance.randint(0, 6)]]
    gaps = (";", " ;", "; ", ";\r\n ", "\r\n\t;", " \r\n  ; ")
    value = pieces[0]
    for piece in pieces[1:]:
        value += chance.choice(gaps) + piece
    return chance.choice(NAMES), value


def given_back(raw: bytes) -> list[bytes]:
    """The values of the Identity rows of a message, as its bytes are."""
    return [
        row.raw.split(b":", 1)[1].strip(b" \t\r\n")
        for row in parse(raw).rows
        if row.name.lower() in (b"identity", b"y")
    ]


def test_ten_thousand_rows_come_back_byte_for_byte() -> None:
    chance = random.Random(8224)
    decides, done = service(), 0
    redirects, writer = responder(decides), wire.ResponseWriter()
    while done < ROWS:
        rows = [a_row(chance) for _ in range(chance.randint(1, 3))]
        blank = chance.choice(("", " ", "\t"))
        raw = invite(headers=tuple(f"{name}{blank}: {value}{blank}" for name, value in rows))
        sent = [value.encode() for _, value in rows]
        reply = redirects.receive(raw, SOURCE, SOURCE, 1.0, 1e9)
        assert reply is not None
        assert reply[0].startswith(b"SIP/2.0 302 ")
        assert given_back(reply[0]) == sent
        decision = decides.handle(observe(raw, source=SOURCE[0]))
        assert decision is not None
        for written in (
            writer.decided(1, decision, b""),
            wire._response(1, decision, b"", NOTHING_ADDED).SerializeToString(),
        ):
            headers = screening.ScreenResponse.FromString(written).egress_headers
            assert [(header.name, header.value) for header in headers] == [("Identity", value) for value in sent]
        done += len(rows)
