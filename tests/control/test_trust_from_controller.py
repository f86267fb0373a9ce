"""Trust lists and revocation lists on their way from the controller to calls: real processes, a laboratory's files."""

import asyncio
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from agent.identity.signing import Signer
from agent.stir.lab import make_crl, make_trust_list
from agent.stir.lab_certificates import DAY, Holder
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.screening.v1 import screening_pb2
from tests.conftest import ROOT
from tests.control.fake_controller import FakeController, wait
from tests.control.managed import a_policy, enroll
from tests.fakes.agent_process import CONFIG, AgentProcess, start_agent
from tests.fakes.calls import invite
from tests.fakes.certificate_server import CertificateServer, page
from tests.fakes.certificates import Signed
from tests.fakes.controller_process import ControllerProcess
from tests.fakes.identity import ORIGID

PORT = 8443
IDENTITY = """\
[identity]
https_ca = "{lab}/https-root.pem"
allow_addresses = ["127.0.0.0/8"]
directory = "{lab}/state"
"""
RULES = '[identity]\nmode = "enforce"\ntrust_lists = ["us"]\ncrls = ["us"]\nwait_seconds = 5\n'
REFUSES = '[[identity.failures]]\nfailure = "credential"\naction = "refuse"\n'
TRUNK = '[[trunks]]\nid = "peer"\nsources = ["192.0.2.0/24"]\n'
POLICY = f'name = "verifies"\n{TRUNK}{RULES}{REFUSES}'


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("t")


class Lab:
    """What `sbc-agent identity make-test-pki` makes, and the server of its certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = "127." + ".".join(f"{secrets.randbelow(200) + 10}" for _ in range(3))
        make = ["-m", "agent.cli.main", "identity", "make-test-pki", str(folder), "--host", self.host]
        subprocess.run([sys.executable, *make], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def holder(self, name: str) -> Holder:
        key = load_pem_private_key(self.read(f"{name}.key"), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return Holder(x509.load_pem_x509_certificates(self.read(f"{name}.pem"))[0], key)

    def signers(self) -> Path:
        """Who may sign lists, for the controller."""
        path = self.folder / "list-signers.pem"
        path.write_bytes(self.read("pa-root.pem") + self.read("crl-signer.pem"))
        return path

    def revoking_signer(self, number: int = 2) -> bytes:
        """The next revocation list: it has the certificate that signs our calls, too."""
        signer = self.holder("signer").certificate
        entry = (self.holder("intermediate").certificate.subject, signer.serial_number)
        crl = make_crl(self.holder("crl-signer"), [entry], time.time() - 30, time.time() + DAY, number)
        return crl.public_bytes(Encoding.PEM)

    def trust_list(self, sequence: int) -> bytes:
        return make_trust_list(self.holder("trust-list-signer"), [self.read("root.pem")], sequence, time.time() + DAY)

    def call(self) -> bytes:
        """An INVITE that is signed now."""
        key = self.holder("signer").key
        url = f"https://{self.host}:{PORT}/signer.pem"
        row = Signer(key, url).sign("12015550123", ("13035550199",), "A", ORIGID, int(time.time())).decode()
        return invite(headers=(f"Identity: {row}",))

    @contextmanager
    def served(self) -> Iterator[None]:
        """The certificates at their URLs, by a loop in a thread."""
        loop = asyncio.new_event_loop()
        own = Signed(self.read("https-server.pem"), self.read("https-server.key"))
        server = CertificateServer(own, {"/signer.pem": page(self.read("signer.pem"))})
        loop.run_until_complete(server.start(PORT, self.host))
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


@pytest.fixture
def lab(folder: Path) -> Lab:
    return Lab(folder / "lab")


def code_of(agent: AgentProcess, lab: Lab) -> int:
    """0: the call passes."""
    with agent.hook() as ask:
        response = ask(lab.call())
    return 0 if response.decision == screening_pb2.DECISION_ALLOW else response.answer.code


def comes(condition: Callable[[], bool], what: str) -> None:
    wait(condition, what)


class Desk:
    """sbcctl as a real process."""

    def __init__(self, controller: ControllerProcess) -> None:
        folder = controller.folder
        self._environment = os.environ | {
            "SBCCTL_CONTROLLER": controller.open_address,
            "SBCCTL_AUTHORITY": str(folder / "authority" / "ca.crt"),
            "SBCCTL_TOKEN_FILE": str(folder / "admin.token"),
        }

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "controller.ctl.main", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False, timeout=60
        )

    def ok(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done
        return done.stdout


def enrolled(desk: Desk, controller: ControllerProcess, folder: Path) -> None:
    (folder / "token").write_text(desk.ok("tokens", "create", "--quiet"))
    roots = controller.folder / "authority" / "ca.crt"
    pin = subprocess.run(
        ["openssl", "x509", "-in", str(roots), "-noout", "-fingerprint", "-sha256"],
        capture_output=True, text=True, check=True,
    ).stdout.partition("=")[2].strip()  # fmt: skip
    command = [
        *(sys.executable, "-m", "agent.cli.main", "enroll", "--controller", controller.open_address),
        *("--token-file", str(folder / "token"), "--dir", str(folder / "control"), "--authority-sha256", pin),
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def running(folder: Path, address: str, lab: Lab, more: str = "") -> Iterator[AgentProcess]:
    config = CONFIG + f'[controller]\naddress = "{address}"\ndirectory = "{{folder}}/control"\n'
    (folder / "notify.sock").unlink(missing_ok=True)
    identity = IDENTITY.replace("{lab}", str(lab.folder)) + more
    with start_agent(folder, config=config + identity, policy='name = "of the file"') as agent:
        agent.logged("ready")
        yield agent


@pytest.mark.slow
def test_a_call_is_verified_under_the_controllers_trust_list_until_its_certificate_is_revoked(
    folder: Path, lab: Lab
) -> None:
    more = f'[artifacts]\nsigners = "{lab.signers()}"\n'
    (folder / "a").mkdir()
    (folder / "c").mkdir()
    (folder / "policy").write_text(POLICY)
    with lab.served(), ControllerProcess(folder / "c", more=more) as controller:
        desk = Desk(controller)
        desk.ok("lists", "import", "trust-list", "us", str(lab.folder / "trust-list.jws"))
        desk.ok("lists", "import", "crl", "us", str(lab.folder / "crl.pem"))
        enrolled(desk, controller, folder / "a")
        with running(folder / "a", controller.address, lab) as agent:
            agent.logged("session")
            assert code_of(agent, lab) == 0  # nothing is asked of calls yet
            desk.ok("policy", "apply", str(folder / "policy"), "--soak", "0.2s", "--watch")
            comes(lambda: agent.component("trust").healthy, "somebody to trust")
            assert "revocation list us 1" in agent.component("trust").detail
            assert code_of(agent, lab) == 0
            assert agent.status().counters["trust_authorities"] == 1
            (folder / "next.pem").write_bytes(lab.revoking_signer())
            said = desk.ok("lists", "import", "crl", "us", str(folder / "next.pem"))
            assert "agents get it with policy generation 2" in said
            comes(lambda: code_of(agent, lab) == 437, "the revocation")
            (folder / "old.pem").write_bytes(lab.read("crl.pem"))  # number 1 again: a replay
            done = desk.run("lists", "import", "crl", "us", str(folder / "old.pem"))
            assert done.returncode == 1
            assert "sequence is 1, and 2 is here already" in done.stderr
            (folder / "policy").write_text(POLICY.replace("verifies", "again"))
            desk.ok("policy", "apply", str(folder / "policy"), "--soak", "0.2s", "--watch")
            controller.kill()
        with running(folder / "a", controller.address, lab) as agent:  # alone, from its disk
            assert code_of(agent, lab) == 437
            assert "revocation list us 2" in agent.component("trust").detail


def offer(
    controller: FakeController, lab: Lab, generation: int, *, crl: bytes = b"", **changes: object
) -> pb.ConfigOffer:
    """The laboratory's lists; `changes` to the manifest of the trust list."""
    of_list = dict(changes)
    content = of_list.pop("content", lab.read("trust-list.jws"))
    assert isinstance(content, bytes)
    number = of_list.pop("number", generation)
    assert isinstance(number, int)
    artifacts = [
        controller.list_of(content, number, "us", kind="trust-list", **of_list),
        controller.list_of(crl or lab.read("crl.pem"), generation, "us", kind="crl"),
    ]
    return controller.offer(generation, a_policy("verifies", RULES + REFUSES), artifacts=artifacts)


@pytest.mark.slow
def test_lists_that_are_older_forged_or_damaged_are_refused_with_the_field_named(folder: Path, lab: Lab) -> None:
    with lab.served(), FakeController() as controller:
        assert enroll(folder, controller).returncode == 0
        both = f'pa_roots = "{lab.folder}/pa-root.pem"\ncrl_signers = "{lab.folder}/crl-signer.pem"\n'
        with running(folder, controller.address, lab, both) as agent:
            session = controller.session()
            session.say(offer=offer(controller, lab, 5))
            session.report(5, "CONFIRMED")
            assert code_of(agent, lab) == 0
            foreign = make_trust_list(lab.holder("foreign-root"), [lab.read("foreign-root.pem")], 9, time.time() + DAY)
            wrong: dict[int, tuple[dict[str, object], str, str]] = {
                6: ({"number": 4}, "artifacts[0].generation", "is 4, and this agent has had 5 already"),
                7: ({"signature": bytes(64)}, "artifacts[0].signature", "is not of the key k1"),
                8: ({"key_id": "k2"}, "artifacts[0].key_id", "names no key that this agent knows"),
                9: ({"content": foreign}, "artifacts[0]", "CN=SHAKEN Foreign Root CA"),
                10: ({"content": lab.read("root.pem")}, "artifacts[0]", "is not signed, and pa_roots of this host"),
                11: ({"crl": b"no list"}, "artifacts[1]", "is neither PEM nor DER"),
            }
            other: dict[str, object] = {"content": lab.trust_list(2)}
            for generation, (changes, field, reason) in wrong.items():
                session.say(offer=offer(controller, lab, generation, **(other | changes)))  # type: ignore[arg-type]
                problem = session.report(generation, "REJECTED").problem
                assert [f.field for f in problem.fields] == [field]
                assert reason in problem.fields[0].description
            assert code_of(agent, lab) == 0
            assert "trust list us 5" in agent.component("trust").detail
            session.say(offer=controller.offer(12, a_policy("verifies", RULES)))
            fields = [f.field for f in session.report(12, "REJECTED").problem.fields]
            assert fields == ["identity.trust_lists[0]", "identity.crls[0]"]


def test_lists_of_agent_toml_win_over_those_of_the_controller(folder: Path, lab: Lab) -> None:
    with lab.served(), FakeController() as controller:
        assert enroll(folder, controller).returncode == 0
        own = f'trust_lists = ["{lab.folder}/root.pem"]\n'
        with running(folder, controller.address, lab, own) as agent:
            session = controller.session()
            other = lab.read("foreign-root.pem")  # under which no call of ours verifies
            session.say(offer=offer(controller, lab, 5, content=other, crl=lab.revoking_signer()))
            session.report(5, "CONFIRMED")
            detail = agent.component("trust").detail
            assert "1 of the controller are not used: agent.toml names lists of that kind" in detail
            assert agent.status().counters["trust_unused_lists"] == 1
            assert code_of(agent, lab) == 437  # its revocation list is: agent.toml names none


def test_going_back_takes_the_trust_of_before_and_a_list_past_its_end_is_told_of(folder: Path, lab: Lab) -> None:
    with lab.served(), FakeController() as controller:
        assert enroll(folder, controller).returncode == 0
        with running(folder, controller.address, lab) as agent:
            session = controller.session()
            session.say(offer=offer(controller, lab, 5))
            session.report(5, "CONFIRMED")
            slow = offer(controller, lab, 6, crl=lab.revoking_signer())
            slow.soak.FromSeconds(3600)
            session.say(offer=slow)
            session.report(6, "APPLIED")
            assert code_of(agent, lab) == 437
            session.say(offer=offer(controller, lab, 5))  # the controller takes it back
            comes(lambda: code_of(agent, lab) == 0, "the trust of before")
            ended = make_trust_list(lab.holder("trust-list-signer"), [lab.read("root.pem")], 3, time.time() - DAY)
            session.say(offer=offer(controller, lab, 7, content=ended))
            session.report(7, "APPLIED")
            component = agent.component("trust")
            assert not component.healthy
            assert "trust list us of the controller, generation 7: past its end, and still in use" in component.detail
            assert code_of(agent, lab) == 0
