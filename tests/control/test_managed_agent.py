"""A managed agent as a real process, and a controller that is cut, killed and wrong at every step."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest

from agent.control.slots import SLOTS, Slots
from agent.deltas import make_delta
from agent.numbers.dno import Assertion, DnoCategory
from agent.numbers.dno_build import DnoBuilder
from agent.numbers.listfile import encode
from agent.numbers.ranges import parse_piece
from sbcedge.admin.v1 import admin_pb2
from sbcedge.control.v1 import control_pb2 as pb
from sbcedge.policy.v1 import policy_pb2
from sbcedge.screening.v1 import screening_pb2
from tests.conftest import ROOT
from tests.control.fake_controller import FakeController, FakeSession, wait
from tests.control.managed import a_policy, enroll, managed, start
from tests.fakes.agent_process import AgentProcess
from tests.fakes.calls import invite

REFUSE_ALL = '[[limits]]\nname = "none"\nscope = "trunk"\nrate = 1\nwindow_seconds = 3600\nburst = 1\n'


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name: names of sockets have at most 80 bytes."""
    return tmp_path_factory.mktemp("m")


def a_list(numbers: int, generation: int) -> bytes:
    """A do-not-originate list."""
    builder = DnoBuilder()
    assertion = builder.assertion_id(Assertion(DnoCategory.UNUSED, "registry", "example", None, None))
    for number in range(numbers):
        builder.add(parse_piece(str(2_015_550_000 + 7 * number)), assertion)
    return b"".join(encode(builder.finish(), generation, 1_800_000_000.0, "test"))


def with_list(name: str) -> policy_pb2.Policy:
    return a_policy(name, '[do_not_originate]\nmode = "enforce"\nlists = ["industry"]\n')


def confirmed(controller: FakeController, generation: int, offer: pb.ConfigOffer) -> FakeSession:
    """Offer it in the open session, until it is confirmed."""
    session = controller.session()
    session.say(offer=offer)
    session.report(generation, "CONFIRMED")
    return session


def decides_by(agent: AgentProcess) -> tuple[int, str]:
    status = agent.status()
    return status.policy_generation, status.policy_name


def component(agent: AgentProcess) -> str:
    found = agent.component("controller")
    return ("" if found.healthy else "NOT WELL: ") + found.detail


def allowed(agent: AgentProcess) -> bool:
    with agent.hook() as ask:
        return bool(ask(invite()).decision == screening_pb2.DECISION_ALLOW)


def test_the_file_decides_until_the_first_offer_and_the_slots_from_then_on(folder: Path) -> None:
    with FakeController() as controller:
        with managed(folder, controller) as agent:
            session = controller.session()
            assert session.hello.active_generation == 0
            assert decides_by(agent)[1] == "of the file"
            confirmed(controller, 3, controller.offer(3, a_policy("third")))
            assert session.phases(3) == ["RECEIVED", "VALIDATED", "APPLIED", "CONFIRMED"]
            assert session.health().active_generation == 3
            agent.signal(signal.SIGTERM)
            assert agent.ends() == 0
        controller.stop()
        with managed(folder, controller) as agent:  # nobody there
            assert decides_by(agent) == (3, "third")
            assert allowed(agent)
            assert wait(lambda: "no controller since" in component(agent), "a word about it")
            controller.start()
            assert controller.session(1).hello.active_generation == 3


def test_sighup_and_policy_apply_come_back_to_what_the_controller_gave(folder: Path) -> None:
    with FakeController() as controller, managed(folder, controller) as agent:
        offer = controller.offer(3, a_policy("third"))
        session = confirmed(controller, 3, offer)
        with agent.admin() as admin:
            assert admin.ApplyPolicy(admin_pb2.ApplyPolicyRequest(toml='name = "by hand"')).applied
        wait(lambda: "applied on this host" in component(agent), "a word about it")
        wait(lambda: session.health().active_generation == 0, "the truth")
        agent.signal(signal.SIGHUP)
        wait(lambda: decides_by(agent) == (3, "third"), "the managed policy")
        with agent.admin() as admin:
            assert admin.ApplyPolicy(admin_pb2.ApplyPolicyRequest(toml='name = "by hand"')).applied
        wait(lambda: session.health().active_generation == 0, "the truth")
        session.say(offer=offer)
        wait(lambda: decides_by(agent) == (3, "third"), "the managed policy")
        wait(lambda: session.phases(3).count("CONFIRMED") == 2, "an answer")


@pytest.mark.slow
def test_a_wrong_policy_is_refused_with_its_fields_and_never_taken_again(folder: Path) -> None:
    with FakeController() as controller:
        wrong = a_policy("wrong")
        wrong.limits.add(name="x", rate=-1)
        offer = controller.offer(4, wrong)
        with managed(folder, controller) as agent:
            confirmed(controller, 3, controller.offer(3, a_policy("third")))
            session = controller.session()
            session.say(offer=offer)
            state = session.report(4, "REJECTED")
            assert {f.field for f in state.problem.fields} == {"limits[0]", "limits[0].rate", "limits[0].scope"}
            assert state.active_generation == 3
            assert decides_by(agent) == (3, "third")
        with managed(folder, controller) as agent:  # killed and started again
            session = controller.session(1)
            assert list(session.hello.rejected_generations) == [4]
            session.say(offer=offer)
            again = session.report(4, "REJECTED")
            assert again.problem == state.problem
            assert session.phases(4) == ["REJECTED"]


STEPS = ["RECEIVED", "chunk 0", "chunk 2", "VALIDATED", "APPLIED", "soak", "keep", "CONFIRMED"]


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_of_an_offer_it_starts_alone_and_takes_it_then(folder: Path, step: str) -> None:
    content = a_list(30_000, 1)
    with FakeController() as controller:
        controller.chunk = len(content) // 4 + 1
        with managed(folder, controller) as agent:
            confirmed(controller, 7, controller.offer(7, a_policy("old")))
            pid = agent.process.pid
            soaking = threading.Event()

            def on_heard(_session: FakeSession, message: pb.OpenSessionRequest) -> None:
                said = pb.OfferPhase.Name(message.offer_state.phase)[12:]
                if message.WhichOneof("message") == "offer_state" and said == step:
                    os.kill(pid, signal.SIGKILL)
                if message.health.active_generation == 8 and step == "soak":
                    if soaking.is_set():
                        os.kill(pid, signal.SIGKILL)
                    soaking.set()

            def on_chunk(_context: object, chunk: pb.FetchArtifactResponse) -> None:
                if step == f"chunk {chunk.offset // controller.chunk}":
                    os.kill(pid, signal.SIGKILL)

            controller.on_heard, controller.on_chunk = on_heard, on_chunk
            manifest = controller.list_of(content, 1)
            offer = controller.offer(8, with_list("new"), soak=0.5, artifacts=[manifest])
            controller.session().say(offer=offer)
            if step == "keep":  # at whatever moment the slot is written
                slots = Slots(folder / "control")
                wait(lambda: any(kept.generation == 8 for kept in slots.load()), "the slot")
                os.kill(pid, signal.SIGKILL)
            agent.process.wait(20)
        controller.stop()
        controller.on_heard, controller.on_chunk = (lambda *_: None), (lambda *_: None)
        with managed(folder, controller) as agent:
            generation, name = decides_by(agent)
            assert (generation, name) == ((8, "new") if step in ("keep", "CONFIRMED") else (7, "old"))
            assert allowed(agent)
            controller.start()
            session = controller.session(1)
            assert session.hello.active_generation == generation
            session.say(offer=offer)
            session.report(8, "CONFIRMED")
            assert decides_by(agent) == (8, "new")
            assert list(session.hello.rejected_generations) == []


@pytest.mark.slow
def test_a_generation_at_which_the_agent_dies_every_time_is_given_up(folder: Path) -> None:
    with FakeController() as controller:
        enroll(folder, controller)
        offer = controller.offer(8, a_policy("deadly"), soak=60.0)
        for n in range(3):
            with managed(folder, controller) as agent:
                session = controller.session(n)
                session.say(offer=offer)
                session.report(8, "APPLIED")
                agent.process.kill()
                agent.process.wait()
        with managed(folder, controller) as agent:
            session = controller.session(3)
            session.say(offer=offer)
            state = session.report(8, "ROLLED_BACK")
            assert "the agent ended 3 times" in state.problem.message
            assert decides_by(agent)[1] == "of the file"


@pytest.mark.slow
def test_bits_that_flip_in_a_stored_policy_or_list_cost_one_generation_and_are_told(folder: Path) -> None:
    content = a_list(1000, 1)
    with FakeController() as controller:
        manifest = controller.list_of(content, 1)
        with managed(folder, controller) as agent:
            confirmed(controller, 7, controller.offer(7, a_policy("old")))
            confirmed(controller, 8, controller.offer(8, with_list("new"), artifacts=[manifest]))
        controller.stop()
        control = folder / "control"
        list_file = control / "lists" / manifest.sha256.hex()
        newest = next(control / name for name in SLOTS if b"new" in (control / name).read_bytes())
        oldest = next(control / name for name in SLOTS if control / name != newest)
        _flip(list_file)
        with managed(folder, controller) as agent:
            assert decides_by(agent) == (7, "old")
            assert "generation 8, last known good" in component(agent)
        list_file.write_bytes(content)
        _flip(newest)
        with managed(folder, controller) as agent:
            assert decides_by(agent) == (7, "old")
            assert f"{newest.name}: does not have the checksum" in component(agent)
        _flip(oldest)
        with managed(folder, controller) as agent:  # nothing is left but the file
            assert decides_by(agent) == (0, "of the file")
            assert allowed(agent)
            controller.start()
            session = controller.session(1)
            assert session.hello.active_generation == 0
            session.say(offer=controller.offer(8, with_list("new"), artifacts=[manifest]))
            session.report(8, "CONFIRMED")
            assert decides_by(agent) == (8, "new")
            assert component(agent).startswith("session with fake, generation 8")


@pytest.mark.slow
def test_without_slots_and_with_a_wrong_file_every_call_passes_and_the_controller_can_help(folder: Path) -> None:
    with FakeController() as controller:
        with managed(folder, controller, policy="limits = 3") as agent:
            assert allowed(agent)
            assert "limits: must be an array of tables" in component(agent)
            confirmed(controller, 1, controller.offer(1, a_policy("first")))
            wait(lambda: component(agent).startswith("session with"), "health")
        (folder / "policy.toml").unlink()
        with managed(folder, controller, policy="") as agent:
            assert decides_by(agent) == (1, "first")


def test_a_list_that_is_cut_at_every_chunk_comes_whole(folder: Path) -> None:
    content = a_list(20_000, 1)
    with FakeController() as controller, managed(folder, controller) as agent:
        controller.chunk = len(content) // 5 + 1
        cut: set[int] = set()

        def on_chunk(context: grpc.ServicerContext, chunk: pb.FetchArtifactResponse) -> None:
            if chunk.offset and chunk.offset not in cut:
                cut.add(chunk.offset)
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

        controller.on_chunk = on_chunk
        confirmed(controller, 8, controller.offer(8, with_list("new"), artifacts=[controller.list_of(content, 1)]))
        offsets = [request.offset for request in controller.fetches]
        assert offsets == sorted(offsets)
        assert set(offsets) == {0, *cut}
        assert len(cut) == 4
        assert agent.status().counters["controller_fetched_bytes"] == len(content)


@pytest.mark.slow
def test_a_newer_list_comes_as_a_delta_and_a_wrong_delta_is_no_harm(folder: Path) -> None:
    old, new, newest = (a_list(20_000 + n, n) for n in (1, 2, 3))
    with FakeController() as controller, managed(folder, controller) as agent:
        first = controller.list_of(old, 1)
        confirmed(controller, 1, controller.offer(1, with_list("p"), artifacts=[first]))
        second = controller.list_of(new, 2)
        delta = make_delta(old, new)
        assert delta is not None
        controller.deltas[(first.sha256, second.sha256)] = delta
        before = agent.status().counters["controller_fetched_bytes"]
        confirmed(controller, 2, controller.offer(2, with_list("p"), artifacts=[second]))
        assert agent.status().counters["controller_fetched_bytes"] - before == len(delta)
        third = controller.list_of(newest, 3)
        controller.deltas[(second.sha256, third.sha256)] = delta  # to another version
        confirmed(controller, 3, controller.offer(3, with_list("p"), artifacts=[third]))
        assert [request.base_sha256 for request in controller.fetches] == [b"", first.sha256, second.sha256, b""]
        lists = sorted(path.name for path in (folder / "control" / "lists").iterdir())
        wait(lambda: len(list((folder / "control" / "lists").iterdir())) == 3, f"old lists to go: {lists}")
        assert (folder / "control" / "lists" / "dno-industry").read_bytes() == newest


def test_lists_that_nobody_signed_that_are_older_or_not_what_they_should_be_are_refused(folder: Path) -> None:
    content = a_list(100, 5)
    with FakeController() as controller, managed(folder, controller):
        confirmed(controller, 1, controller.offer(1, with_list("p"), artifacts=[controller.list_of(content, 5)]))
        session = controller.session()
        other = a_list(200, 6)
        forged = controller.list_of(other, 6)
        forged.generation = 7
        lying = controller.list_of(other, 6, sha256=b"h" * 32)
        controller.artifacts[lying.sha256] = b"x" * len(other)
        no_list = controller.list_of(b"no list at all", 6)
        for generation, manifest, field in (
            (2, forged, "artifacts[0].signature"),
            (3, controller.list_of(other, 4), "artifacts[0].generation"),
            (4, controller.list_of(other, 6, key_id="k2"), "artifacts[0].key_id"),
            (5, controller.list_of(other, 6, "other"), "do_not_originate.lists[0]"),
            (6, lying, "artifacts"),
            (7, no_list, "artifacts[0]"),
            (8, controller.list_of(other, 6, format_version=9), "artifacts[0].format_version"),
            (9, controller.list_of(other, 6, kind="unheard-of"), "artifacts[0].kind"),
            (10, controller.list_of(other, 6, "../up"), "artifacts[0].name"),
        ):
            session.say(offer=controller.offer(generation, with_list(f"p{generation}"), artifacts=[manifest]))
            state = session.report(generation, "REJECTED")
            assert [f.field for f in state.problem.fields] == [field]
            assert state.active_generation == 1


def test_a_policy_that_refuses_everything_is_given_up_by_the_agent_alone(folder: Path) -> None:
    with FakeController() as controller, managed(folder, controller) as agent:
        confirmed(controller, 1, controller.offer(1, a_policy("good")))
        session = controller.session()
        session.say(offer=controller.offer(2, a_policy("bad", REFUSE_ALL), soak=3600.0))
        session.report(2, "APPLIED")
        controller.stop()  # nobody to ask
        with agent.hook() as ask:
            for _ in range(60):
                ask(invite())
        wait(lambda: decides_by(agent) == (1, "good"), "the good one")
        controller.start()
        session = controller.session(1)
        state = session.report(2, "ROLLED_BACK")
        assert "refused share: 0.00 before" in state.problem.message
        assert state.active_generation == 1
        assert list(session.hello.rejected_generations) == [2]


def test_a_soak_goes_on_and_ends_well_without_a_controller(folder: Path) -> None:
    with FakeController() as controller, managed(folder, controller) as agent:
        session = controller.session()
        session.say(offer=controller.offer(2, a_policy("new"), soak=2.0))
        session.report(2, "APPLIED")
        controller.stop()
        wait(lambda: agent.status().counters["controller_confirmed"] == 0 and _kept(folder) == [2], "the slot")
        controller.start()
        assert controller.session(1).report(2, "CONFIRMED").active_generation == 2


@pytest.mark.slow
def test_an_agent_restarted_inside_a_partition_screens_and_comes_back(folder: Path) -> None:
    with FakeController() as controller:
        with managed(folder, controller):
            confirmed(controller, 1, controller.offer(1, a_policy("good")))
        controller.stop()
        for _ in range(2):
            with managed(folder, controller) as agent:
                assert decides_by(agent) == (1, "good")
                assert allowed(agent)
        with managed(folder, controller) as agent:
            controller.start()
            assert controller.session(1).hello.active_generation == 1
            wait(lambda: component(agent).startswith("session with fake"), "health")


def test_a_stopped_controller_is_noticed_and_calls_go_on(folder: Path) -> None:
    """Stopped as by SIGSTOP: connections stay, nobody answers."""
    with FakeController() as controller:
        hang = threading.Event()
        original = controller.OpenSession

        def hung(requests: object, context: grpc.ServicerContext) -> object:
            hang.wait(30)
            yield from original(requests, context)  # type: ignore[arg-type]

        controller.OpenSession = hung  # type: ignore[method-assign,assignment]
        controller.stop()
        controller.start()
        with managed(folder, controller) as agent:
            assert allowed(agent)
            assert "NOT WELL" in component(agent)
        hang.set()


@pytest.mark.slow
def test_certificates_are_renewed_at_half_of_their_life_and_streams_move_to_the_new_one(folder: Path) -> None:
    with FakeController() as controller:
        controller.lifetime = 12.0
        with managed(folder, controller) as agent:
            first = controller.session()
            wait(lambda: controller.renewals, "a renewal")
            wait(lambda: len(controller.sessions) > 1, "another stream")
            wait(lambda: len(controller.renewals) > 1, "another renewal")
            requests = {request.certificate_request for request in controller.renewals}
            assert len(requests) == len(controller.renewals)  # another key each time
            assert {r.instance_uid for r in controller.renewals} == {first.hello.instance_uid}
            assert {s.hello.boot_id for s in controller.sessions} == {first.hello.boot_id}
            wait(lambda: agent.status().counters["controller_renewals"] >= 2, "what counts")
            assert allowed(agent)


@pytest.mark.slow
def test_a_certificate_that_ended_while_it_was_away_is_told_and_a_new_token_puts_it_right(folder: Path) -> None:
    with FakeController() as controller:
        with managed(folder, controller):
            confirmed(controller, 1, controller.offer(1, a_policy("good")))
        controller.stop()
        for path in (folder / "control" / "fleet.json", folder / "control" / "identity.pem"):
            path.unlink()
        controller.start()
        controller.lifetime = 2.0
        assert enroll(folder, controller).returncode == 0
        ended = time.time() + 2.0
        wait(lambda: time.time() > ended, "its end")
        with managed(folder, controller) as agent:
            assert decides_by(agent) == (1, "good")
            assert allowed(agent)
            said = wait(lambda: "its certificate ended at" in component(agent) and component(agent), "a word about it")
            assert "enrol it again; it screens by what it has" in said
            sessions = len(controller.sessions)
            controller.lifetime = 86_400.0
            controller._answers.clear()
            done = enroll(folder, controller)
            assert done.returncode == 0, done.stderr
            assert controller.session(sessions).hello.active_generation == 1
            wait(lambda: component(agent).startswith("session with fake"), "health")


def test_a_banned_agent_keeps_screening_and_asks_hourly(folder: Path) -> None:
    with FakeController() as controller:
        controller.refuse = grpc.StatusCode.PERMISSION_DENIED
        with managed(folder, controller) as agent:
            line = agent.logged("no controller; screening goes on")
            assert line["error"] == "PERMISSION_DENIED: not you"
            assert 3600 <= line["again_in"] <= 4500
            assert allowed(agent)
            assert "PERMISSION_DENIED: not you" in component(agent)


def test_an_agent_that_was_never_enrolled_screens_and_joins_as_soon_as_it_is(folder: Path) -> None:
    with FakeController() as controller, start(folder, controller) as agent:
        agent.logged("ready")
        assert allowed(agent)
        wait(lambda: "not enrolled: run `sbc-agent enroll`" in component(agent), "a word about it")
        assert enroll(folder, controller).returncode == 0
        assert controller.session().hello.instance_uid
        wait(lambda: component(agent).startswith("session with fake"), "health")


@pytest.mark.slow
def test_a_controller_whose_clock_is_an_hour_off_can_still_command(folder: Path) -> None:
    with FakeController() as controller:
        for offset in (3600.0, -3600.0):
            controller.clock_offset = offset
            with managed(folder, controller):
                session = controller.session(len(controller.sessions))
                command = pb.Command(id="c1", get_status=pb.GetStatusCommand())
                command.expires_at.FromNanoseconds(int((time.time() + offset + 30) * 1e9))
                session.say(command=command)
                answer = session.answer()
                assert not answer.HasField("problem")
                assert '"policy_name"' in answer.json[0]


def test_a_full_disk_postpones_an_offer_and_refuses_nothing(folder: Path) -> None:
    content = a_list(1000, 1)
    with FakeController() as controller, managed(folder, controller) as agent:
        (folder / "control" / "lists").touch()  # where a directory should be: nothing can be written
        session = controller.session()
        manifest = controller.list_of(content, 1)
        session.say(offer=controller.offer(8, with_list("new"), artifacts=[manifest]))
        wait(lambda: "generation 8 waits" in component(agent), "a word about it")
        assert session.phases(8) == ["RECEIVED"]
        (folder / "control" / "lists").unlink()
        session.report(8, "CONFIRMED")


def test_a_list_that_is_too_old_is_told_and_stays_in_use(folder: Path) -> None:
    content = a_list(100, 1)
    with FakeController() as controller, managed(folder, controller) as agent:
        sha256 = hashlib.sha256(content).digest()
        manifest = pb.ArtifactManifest(
            kind="dno", name="industry", generation=1, sha256=sha256, size=len(content), format_version=1, key_id="k1"
        )
        manifest.not_after.FromSeconds(int(time.time()) + 2)
        manifest.signature = controller.signer.sign(manifest.SerializeToString(deterministic=True))
        controller.artifacts[sha256] = content
        confirmed(controller, 1, controller.offer(1, with_list("p"), artifacts=[manifest]))
        said = wait(lambda: "is to be used until" in component(agent) and component(agent), "an alarm")
        assert said.startswith("NOT WELL: dno industry is to be used until")
        with agent.hook() as ask:
            listed = ask(invite(calling="sip:+12015550000@a.example.net;user=phone"))
        assert listed.decision == screening_pb2.DECISION_REFUSE
        assert decides_by(agent) == (1, "p")


def test_run_check_tells_what_it_would_start_with(folder: Path) -> None:
    with FakeController() as controller:
        with managed(folder, controller):
            confirmed(controller, 3, controller.offer(3, a_policy("third")))
        command = [sys.executable, "-m", "agent.cli.main", "run", "--check", "--config", str(folder / "agent.toml")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[1] == "the controller's policy: ok, generation 3"


def _kept(folder: Path) -> list[int]:
    return [offer.generation for offer in Slots(folder / "control").load()]


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
