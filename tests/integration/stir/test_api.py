"""The ATIS-1000082 API with the agent's own verifier, signer and certificates, beside secsipidx."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.identity.certificate import read_anchors
from agent.identity.signing import Signer
from agent.identity.trust import TrustStore
from agent.stir.api.backends import Signs, Verifies, verstat_by
from agent.stir.api.server import StirApiServer
from agent.stir.api.settings import StirApiSettings
from agent.stir.settings import IdentitySettings
from agent.stir.source import CertificateSource
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.calls import policy
from tests.integration.peers import need
from tests.integration.stir.laboratory import CALLED, CALLING, ORIGID, PORT, Lab, make_lab
from tests.integration.stir.secsipidx import signed_by_them, verified_by_them

pytestmark = pytest.mark.slow

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    need("secsipidx")
    return make_lab(tmp_path)


def with_api(lab: Lab, use: Callable[[Ask], Awaitable[None]]) -> None:
    """Run `use` with an API that fetches certificates from the laboratory's https server."""
    faults: list[Exception] = []
    identity = IdentitySettings(
        directory=lab.folder / "identity", allow_addresses=("127.0.0.0/8",), https_ca=lab.file("https-root.pem")
    )

    async def main() -> None:
        source = CertificateSource(identity, faults.append)
        await source.start()
        await source.adopt(TrustStore(read_anchors(lab.made.root.pem)))
        in_force = policy(pb.Policy())
        verifies = Verifies(source, lambda: in_force, (PORT,), 5.0)
        signs = Signs(lambda: Signer(lab.made.signer.key, lab.url("signer")))
        settings = StirApiSettings(listen="127.0.0.1:0", answer_seconds=5.0)
        server = StirApiServer(settings, verifies, signs, verstat_by(lambda: in_force), faults.append)
        await server.start()
        host, port = server.address

        async def ask(resource: str, request: dict[str, Any]) -> dict[str, Any]:
            async with httpx.AsyncClient(base_url=f"http://{host}:{port}/stir/v1", trust_env=False) as client:
                response = await client.post(f"/{resource}", json=request)
            assert response.status_code == 200, response.text
            answer: dict[str, Any] = next(iter(response.json().values()))
            return answer

        async with lab.served():
            await use(ask)
        await server.stop(1.0)
        await source.stop(1.0)

    asyncio.run(main())
    assert not faults


def verification(identity: str, calling: str = CALLING) -> dict[str, Any]:
    fields = {"from": {"tn": calling}, "to": {"tn": [CALLED]}, "time": int(time.time()), "identity": identity}
    return {"verificationRequest": fields}


def signing(attest: str) -> dict[str, Any]:
    dest = {"tn": [CALLED]}
    fields = {"attest": attest, "dest": dest, "iat": int(time.time()), "orig": {"tn": CALLING}, "origid": ORIGID}
    return {"signingRequest": fields}


def test_what_secsipidx_signs_the_api_verifies(lab: Lab) -> None:
    async def use(ask: Ask) -> None:
        good = signed_by_them(lab)
        for _ in range(2):  # an SBC may ask again
            assert await ask("verification", verification(good)) == {"verstat": "TN-Validation-Passed"}

    with_api(lab, use)


def test_what_the_api_signs_secsipidx_verifies_and_so_does_the_api(lab: Lab) -> None:
    async def use(ask: Ask) -> None:
        for attest in "ABC":
            signed = (await ask("signing", signing(attest)))["identity"]
            assert verified_by_them(lab, signed)
            assert await ask("verification", verification(signed)) == {"verstat": "TN-Validation-Passed"}

    with_api(lab, use)


def test_what_is_wrong_has_its_reason(lab: Lab) -> None:
    async def use(ask: Ask) -> None:
        for identity, calling, code, verstat in (
            (signed_by_them(lab), "12015550199", 438, "TN-Validation-Failed"),
            (signed_by_them(lab, url="expired"), CALLING, 437, "TN-Validation-Failed"),
            (signed_by_them(lab, key="foreign"), CALLING, 438, "TN-Validation-Failed"),
            (lab.sign(age=120), CALLING, 403, "TN-Validation-Failed"),
            (signed_by_them(lab, url="revoked"), CALLING, 436, "No-TN-Validation"),  # nothing is served there
        ):
            answer = await ask("verification", verification(identity, calling))
            assert (answer["reasoncode"], answer["verstat"]) == (code, verstat), answer

    with_api(lab, use)
