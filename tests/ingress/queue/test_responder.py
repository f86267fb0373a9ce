"""What becomes of each datagram, without sockets and clocks."""

from hypothesis import given
from hypothesis import strategies as st

from agent.ingress.queue.responder import GOES_ON, QueueResponder, as_request
from agent.kernel.raw_reply import Path
from agent.screening import Observation, Screening
from agent.service import Finding, Service
from agent.sip.transactions import ServerTransactions
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.calls import PEER, SBC, invite, policy
from tests.ingress.queue.wire import Records, following

BACK = Path(b"\xc6\x33\x64\x01", 5060, b"\xc0\x00\x02\x0a", 5060)
BLOCKED = pb.Policy(
    trunks=[pb.Trunk(id="peer", sources=[PEER])],
    provider_block=pb.ProviderBlockRule(blocks=[pb.ProviderBlock(trunk="peer")]),
)


class World:
    def __init__(self, message: pb.Policy = BLOCKED, service: Service | None = None, follows: bool = False) -> None:
        self.failures: list[Exception] = []
        self.service = service or Service(Screening(policy(message), b"secret"), Records(), lambda: self.now)
        self.transactions: ServerTransactions[Path] = ServerTransactions()
        self.responder = QueueResponder(self.service, self.transactions, self.failures.append, follows_calls=follows)
        self.now = 1000.0

    def receive(self, raw: bytes) -> tuple[bool, bytes | None]:
        goes_on, reply = self.responder.receive(raw, (PEER, 5060), SBC, BACK, self.now, 1.8e9)
        return goes_on, None if reply is None else reply[0]


def test_a_refusal_is_dropped_answered_and_remembered() -> None:
    world = World()
    goes_on, answer = world.receive(invite())
    assert not goes_on
    assert answer is not None
    assert answer.startswith(b"SIP/2.0 603 ")
    assert world.transactions.waiting == 1


def test_copies_get_the_same_bytes_until_the_ack_and_silence_after_it() -> None:
    world = World()
    raw = invite()
    _, answer = world.receive(raw)
    assert world.receive(raw) == (False, answer)
    assert answer is not None
    assert world.receive(following("ACK", raw, answer)) == (False, None)
    assert world.receive(raw) == (False, None)


def test_copies_get_the_same_bytes_when_nothing_can_be_remembered() -> None:
    world = World()
    world.transactions._capacity = 1
    world.receive(invite())
    raw = invite()
    first, second = world.receive(raw), world.receive(raw)
    assert first == second
    assert world.transactions.overflows > 0


def test_the_answer_is_due_again_by_timer_g_and_goes_the_same_way() -> None:
    world = World()
    _, answer = world.receive(invite())
    assert world.transactions.due(world.now + 0.4) == []
    assert world.transactions.due(world.now + 0.5) == [(answer, BACK)]


def test_an_ack_with_a_tag_of_ours_for_another_call_goes_on() -> None:
    world = World()
    first, second = invite(), invite()
    _, answer = world.receive(first)
    world.receive(second)
    assert answer is not None
    forged = following("ACK", second, answer)
    assert world.receive(forged) == GOES_ON
    assert world.transactions.waiting == 2


def test_what_cannot_be_answered_goes_on() -> None:
    world = World()
    raw = b"\r\n".join(row for row in invite().split(b"\r\n") if not row.startswith(b"Via"))
    assert world.receive(raw) == GOES_ON
    assert world.responder.unanswerable == 1


def test_a_fault_of_ours_is_told_and_the_call_goes_on() -> None:
    class Broken(Service):
        def handle(self, observation: Observation, identity: Finding = None) -> None:
            raise RuntimeError("broken")

    world = World(service=Broken(Screening(policy(BLOCKED)), Records()))
    assert world.receive(invite()) == GOES_ON
    assert world.responder.failures == len(world.failures) == 1


def test_sessions_stay_where_somebody_follows_the_calls() -> None:
    lines = pb.Policy(limits=[pb.Limit(name="lines", scope=pb.SCOPE_CALLING, sessions=1)])
    following_calls, alone = World(lines, follows=True), World(lines)
    assert [following_calls.receive(invite())[0] for _ in range(3)] == [True, False, False]
    assert [alone.receive(invite())[0] for _ in range(3)] == [True, True, True]


def test_a_request_is_read_as_the_most_tolerant_sbc_reads_it() -> None:
    assert as_request(b"\r\n\n invite x") == b" invite x"
    assert as_request(b"\r\ninvite sip:x SIP/2.0") == b"INVITE sip:x SIP/2.0"
    assert as_request(b"Ack sip:x") == b"ACK sip:x"
    assert as_request(b"cancel sip:x") == b"CANCEL sip:x"
    assert as_request(b"") == b""
    assert as_request(b"\r\n") == b""


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"INVITE ", b"ACK ", b"CANCEL ", b"\r\ninvite sip:x SIP/2.0\r\n"])
)
def test_arbitrary_bytes_never_raise_and_go_on(rest: bytes, first: bytes) -> None:
    world = World()
    assert world.receive(first + rest)[0]
    assert not world.failures
