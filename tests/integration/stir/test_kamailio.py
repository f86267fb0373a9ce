"""Kamailio's module secsipid: what it signs we verify, and what we sign it verifies, over SIP."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from agent.cli.identity_verify import call_of
from agent.identity.model import Failure
from agent.sip.scan import scan
from tests.integration.peers import LOOPBACK, Kamailio, need_kamailio
from tests.integration.stir.laboratory import CALLED, CALLING, CODE, Lab, make_lab

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parent
SECONDS = 5.0
MANY = 600  # of which some five have an r or s that begins with a zero byte, which a DER INTEGER leaves out

_number = count(1)


class Caller:
    """A socket that sends INVITEs to Kamailio and takes what comes of them."""

    def __init__(self, sock: socket.socket, kamailio: Kamailio) -> None:
        self._sock = sock
        self._kamailio = kamailio

    def send(self, domain: str, identity: str = "", attest: str = "A", calling: str = CALLING) -> bytes:
        """Send one; the message that comes next."""
        port, number = self._sock.getsockname()[1], next(_number)
        rows = [
            f"INVITE sip:+{CALLED}@{domain} SIP/2.0",
            f"Via: SIP/2.0/UDP {LOOPBACK}:{port};branch=z9hG4bK{number}",
            "Max-Forwards: 70",
            f"From: <sip:+{calling}@example.com>;tag={number}",
            f"To: <sip:+{CALLED}@{domain}>",
            f"Call-ID: {number}@{LOOPBACK}",
            "CSeq: 1 INVITE",
            f"X-Attest: {attest}",
            *([f"Identity: {identity}"] if identity else []),
            "Content-Length: 0",
        ]
        self._sock.sendto(("\r\n".join(rows) + "\r\n\r\n").encode(), self._kamailio.address)
        try:
            return self._sock.recv(65_535)
        except TimeoutError as error:
            error.add_note(self._kamailio.report())
            raise

    def status(self, domain: str, identity: str, calling: str = CALLING) -> int:
        """The answer to a call with this Identity."""
        return int(self.send(domain, identity, calling=calling)[8:11])


@contextmanager
def kamailio(lab: Lab) -> Iterator[Caller]:
    """Kamailio with the key of the signer, and a caller who is its next hop too."""
    need_kamailio("secsipid")
    cache = lab.folder / "cache"
    cache.mkdir()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        sock.settimeout(SECONDS)
        defines = {
            "SINK": f'"sip:{LOOPBACK}:{sock.getsockname()[1]}"',
            "KEY": f'"{lab.file("signer.key")}"',
            "CERTIFICATE": f'"{lab.file("signer.pem")}"',
            "X5U": f'"{lab.url("signer")}"',
            "CACHE": f'"{cache}"',
        }
        env = {"SSL_CERT_FILE": str(lab.file("https-root.pem"))}  # Go's, for https
        with Kamailio(lab.folder / "kamailio", HERE / "secsipid.cfg", defines, env=env) as peer:
            yield Caller(sock, peer)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


def test_what_it_signs_we_verify(lab: Lab) -> None:
    with kamailio(lab) as caller:
        for attest in "ABC":
            message = scan(caller.send("sign.example.net", attest=attest))
            assert message.method == "INVITE"
            found = lab.judge(message.identity, call_of(message, "1"))
            assert (found.failure, found.attestation, found.spc) == (None, attest, CODE)


def test_what_we_sign_it_verifies(lab: Lab) -> None:
    with kamailio(lab) as caller:
        for attest in "ABC":
            assert caller.status("verify.example.net", lab.sign(attest=attest)) == 200


def test_both_agree_on_many_signatures(lab: Lab) -> None:
    with kamailio(lab) as caller:
        for n in range(MANY):
            calling = f"120155501{n % 100:02d}"
            ours = lab.sign(calling)
            assert caller.status("verify.example.net", ours, calling) == 200, ours
            message = scan(caller.send("sign.example.net", calling=calling))
            assert lab.judge(message.identity, call_of(message, "1")).valid, message.identity


def test_it_fetches_our_certificate_once(lab: Lab) -> None:
    async def run() -> None:
        async with lab.served() as server:
            with kamailio(lab) as caller:
                for _ in range(3):
                    assert await asyncio.to_thread(caller.status, "fetch.example.net", lab.sign()) == 200
                assert server.asked["/signer.pem"] == 1

    asyncio.run(run())


def test_neither_takes_a_changed_or_old_token_or_another_key(lab: Lab) -> None:
    good = lab.sign()
    head, payload, rest = good.split(".", 2)
    wrong = {
        f"{head}.{payload[:40]}{'A' if payload[40] != 'A' else 'B'}{payload[41:]}.{rest}": Failure.INVALID,
        f"{head}.{payload}.{'A' if rest[0] != 'A' else 'B'}{rest[1:]}": Failure.INVALID,
        lab.sign(age=120): Failure.STALE,
        lab.sign(key="foreign"): Failure.INVALID,
    }
    with kamailio(lab) as caller:
        assert caller.status("verify.example.net", good) == 200
        for identity, failure in wrong.items():
            assert caller.status("verify.example.net", identity) == 438
            assert lab.verify(identity).failure is failure
