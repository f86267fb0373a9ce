"""The agent's end of a session, as transcripts."""

from agent.control import steps
from agent.control.errors import Trouble
from agent.control.messages import (
    Code,
    Command,
    CommandAnswer,
    Goodbye,
    HealthReport,
    Hello,
    InForce,
    OfferReport,
    Phase,
    Problem,
    ToAgent,
    Welcome,
)
from agent.control.offers import Offers
from agent.control.session import (
    COMMANDS_MAX,
    REHASH_SECONDS,
    WELCOME_SECONDS,
    Effect,
    HangUp,
    Identity,
    Rehash,
    Run,
    Send,
    Session,
    StopCommands,
)
from agent.control.soak import Vitals
from agent.control.steps import Journal
from tests.control.offering import an_offer

WHEN = 1_800_000_000.0
WHO = Identity("uid-1", "boot-1", "0.1.0", ("policy.v1",))
WELCOME = Welcome("c1", WHEN, frozenset(), 10.0)


class Talk:
    """A session with a clock that the test moves."""

    def __init__(self, offers: Offers | None = None) -> None:
        self.vitals = Vitals()
        self.session = Session(offers or Offers(None, Journal({}, {})), lambda: self.vitals)
        self.now = 0.0

    def connect(self) -> list[Effect]:
        return self.session.connected(WHO, self.now, WHEN + self.now)

    def hear(self, message: ToAgent) -> list[Effect]:
        return self.session.receive(message, self.now, WHEN + self.now)

    def wait(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.session.tick(self.now, WHEN + self.now)

    def open(self, welcome: Welcome = WELCOME) -> "Talk":
        self.connect()
        self.hear(welcome)
        return self


def sent(effects: list[Effect]) -> list[object]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def command(id_: str = "1", word: str = "status", expires: float = WHEN + 60, **more: object) -> Command:
    return Command(id_, word, expires, **more)  # type: ignore[arg-type]


def problem_of(effects: list[Effect]) -> Problem:
    (answer,) = sent(effects)
    assert isinstance(answer, CommandAnswer)
    assert answer.last
    assert answer.problem is not None
    return answer.problem


def test_hello_comes_first_and_says_what_is_in_force_and_what_was_refused() -> None:
    offer = an_offer(8)
    rejection = steps.Rejection(b"x" * 32, Phase.REJECTED, Problem(3, "no"))
    talk = Talk(Offers(offer, Journal({7: rejection}, {})))
    (hello,) = sent(talk.connect())
    assert hello == Hello("uid-1", "boot-1", "0.1.0", ("policy.v1",), InForce(8, offer.sha256), WHEN, (7,))


def test_health_comes_with_the_welcome_and_then_at_its_interval_with_what_is_new() -> None:
    talk = Talk().open()
    talk.vitals = Vitals(100, 5, 0, {"hook": (True, "well"), "spool": (False, "x" * 1000)}, {"attempts": 100})
    (first,) = sent(talk.wait(0.0))
    assert isinstance(first, HealthReport)
    assert (first.attempts, first.refusals) == (100, 5)
    assert first.components["hook"] == (True, "well")
    assert len(first.components["spool"][1]) == 300
    talk.vitals = Vitals(130, 6)
    assert sent(talk.wait(9.9)) == []
    (second,) = sent(talk.wait(0.1))
    assert isinstance(second, HealthReport)
    assert (second.attempts, second.refusals) == (30, 1)


def test_an_offer_is_answered_in_the_session_and_goes_on_without_one() -> None:
    talk, offer = Talk().open(), an_offer(8, soak=5.0)
    heard = talk.hear(offer)
    assert [type(effect).__name__ for effect in heard] == ["Send", "Note", "Prepare"]
    assert talk.session.lost() == []
    followed = talk.session.follow(talk.session.offers.prepared(offer), WHEN)
    assert [type(effect).__name__ for effect in followed] == ["Apply"]  # nobody to tell
    talk.session.offers.applied(offer, Vitals(), talk.now)
    kept = [effect for effect in talk.wait(5.0) if isinstance(effect, steps.Keep)]
    assert kept == [steps.Keep(offer)]
    talk.session.offers.kept(offer)
    talk.connect()
    (report,) = sent(talk.hear(WELCOME))
    assert isinstance(report, OfferReport)
    assert (report.generation, report.phase) == (8, Phase.CONFIRMED)


def test_what_does_not_belong_there_ends_the_stream() -> None:
    greeting = Talk()
    greeting.connect()
    (hung_up,) = greeting.hear(an_offer(8))
    assert isinstance(hung_up, HangUp)
    assert "offer where it does not belong" in hung_up.error.reason
    (again,) = Talk().open().hear(WELCOME)
    assert isinstance(again, HangUp)


def test_a_controller_that_does_not_welcome_is_left() -> None:
    talk = Talk()
    talk.connect()
    assert talk.wait(WELCOME_SECONDS) == []
    (hung_up,) = talk.wait(0.1)
    assert isinstance(hung_up, HangUp)
    assert hung_up.error.trouble is Trouble.AWAY


def test_goodbyes_mean_what_their_code_says() -> None:
    for problem, trouble in (
        (None, Trouble.BUSY),
        (Problem(0, "this session is old"), Trouble.BUSY),
        (Problem(7, "revoked"), Trouble.BANNED),
        (Problem(16, "the certificate has ended"), Trouble.STRANGER),
        (Problem(13, "a fault"), Trouble.AWAY),
    ):
        (hung_up,) = Talk().open().hear(Goodbye(problem, 7.0))
        assert isinstance(hung_up, HangUp)
        assert (hung_up.error.trouble, hung_up.error.retry_after) == (trouble, 7.0)


def test_a_command_is_carried_out_once() -> None:
    talk = Talk().open()
    assert talk.hear(command()) == [Run(command())]
    assert talk.hear(command()) == []  # it is under way
    assert sent(talk.session.answer(CommandAnswer("1", ("{}",)))) == [CommandAnswer("1", ("{}",))]
    assert sent(talk.session.answer(CommandAnswer("1", last=True))) == [CommandAnswer("1", last=True)]
    assert problem_of(talk.hear(command())).code == Code.ABORTED
    assert talk.session.answer(CommandAnswer("1", last=True)) == []


def test_commands_that_are_late_unknown_or_too_many_are_answered_and_not_carried_out() -> None:
    talk = Talk().open()
    assert problem_of(talk.hear(command(word=""))).code == Code.UNIMPLEMENTED
    assert problem_of(talk.hear(command(word="reboot"))).code == Code.UNIMPLEMENTED
    assert problem_of(talk.hear(command(expires=WHEN))).code == Code.DEADLINE_EXCEEDED
    assert problem_of(talk.hear(Command("1", "status", None))).code == Code.DEADLINE_EXCEEDED
    for n in range(COMMANDS_MAX):
        assert talk.hear(command(str(n)))
    assert problem_of(talk.hear(command("more"))).code == Code.RESOURCE_EXHAUSTED


def test_a_clock_that_is_an_hour_off_does_not_make_commands_late() -> None:
    for offset in (-3600.0, 3600.0):
        talk = Talk().open(Welcome("c1", WHEN + offset, frozenset(), 10.0))
        assert talk.session.clock_offset == offset
        assert talk.hear(command(expires=WHEN + offset + 30)) != []
        late = talk.hear(command("2", expires=WHEN + offset - 1))
        assert problem_of(late).code == Code.DEADLINE_EXCEEDED


def test_commands_end_with_the_session() -> None:
    talk = Talk().open()
    talk.hear(command())
    assert talk.session.lost() == [StopCommands()]
    talk.open()
    assert talk.session.answer(CommandAnswer("1", last=True)) == []


def test_the_disk_is_looked_at_every_five_minutes() -> None:
    talk = Talk().open()
    seen = [second for second in range(1200) if Rehash() in talk.wait(1.0)]
    assert seen == [int(REHASH_SECONDS) * n for n in (1, 2, 3)]
