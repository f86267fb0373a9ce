"""The redirect server with caller-ID authentication in a process of its own: prints its port, serves until it is told.

    python -m tests.benchmarks.identity_server verify|sign FOLDER HOST

The certificate is fetched by https before the first call, as the daemon fetches it; then it is in memory.
"""

import asyncio
import gc
import sys
from pathlib import Path

from agent.identity.certificate import read_anchors
from agent.identity.model import Credential
from agent.identity.trust import TrustStore
from agent.ingress.redirect.server import RedirectServer
from agent.ingress.redirect.settings import Listen, RedirectSettings
from agent.policy.compile import compile_policy
from agent.screening import Screening
from agent.service import Service
from agent.stir.keys import SigningKeys
from agent.stir.settings import IdentitySettings
from agent.stir.signing_settings import SigningSettings
from agent.stir.source import CertificateSource
from agent.stir.stage import Stage
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.benchmarks.redirect_server import NoRecords
from tests.benchmarks.secsipid import URL_PATH
from tests.fakes.certificate_server import CertificateServer, page
from tests.fakes.certificates import Signed


def policy_message(what: str) -> pb.Policy:
    """One trunk. A call with a bad Identity is refused, as Kamailio refuses it; or every call is signed."""
    redirect = pb.RedirectAnswer(code=302, next_hop="core.example.net:5060")
    trunk = pb.Trunk(id="peer", sources=["127.0.0.1"], trust_asserted_identity=True, redirect=redirect)
    if what == "sign":
        return pb.Policy(trunks=[trunk], signing=pb.SigningRule(gateway_trunks=["peer"]))
    refused = [pb.IdentityFailure(failure=pb.FAILURE_CLASS_INVALID, action=pb.FAILURE_ACTION_REFUSE)]
    return pb.Policy(trunks=[trunk], identity=pb.IdentityRule(failures=refused, mark=False))


async def certificates(folder: Path, host: str, failures: list[Exception]) -> CertificateSource:
    """A source that has fetched the certificate of the calls."""
    url = f"https://{host}:8443{URL_PATH}"
    settings = IdentitySettings(
        directory=folder / "identity", allow_addresses=("127.0.0.0/8",), https_ca=folder / "https-root.pem"
    )
    own = Signed((folder / "https.pem").read_bytes(), (folder / "https.key").read_bytes())
    server = CertificateServer(own, {URL_PATH: page((folder / "signer.pem").read_bytes())})
    await server.start(8443, host)
    source = CertificateSource(settings, failures.append)
    await source.start()
    await source.adopt(TrustStore(read_anchors((folder / "root.pem").read_bytes())))
    found = await source.obtain([url], 10.0)
    assert isinstance(found[url], Credential), found
    await server.stop()
    return source


async def serve(what: str, folder: Path, host: str) -> None:
    failures: list[Exception] = []
    source = await certificates(folder, host, failures) if what == "verify" else None
    (folder / "signer.key").chmod(0o600)
    url = f"https://{host}:8443{URL_PATH}"
    keys = SigningKeys(SigningSettings(folder / "signer.pem", url, folder / "signer.key"), {})
    await keys.start()
    screening = Screening(compile_policy(policy_message(what), {}))
    service = Service(screening, NoRecords(), identity=Stage(screening, source, keys, failures.append))
    server = RedirectServer(service, RedirectSettings(udp=(Listen("127.0.0.1", 0),)), failures.append)
    await server.start()
    # What lives as long as the process is no garbage; the daemon does the same.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 1000)
    print(server.addresses[0][1].port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0.0)
    if source is not None:
        await source.stop(0.0)
    print(dict(server.counters()), failures[:3], file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
