"""The life of one call, as a state machine: what a message means for it, and where that takes it.

Knows INVITE, CANCEL, BYE and their responses (RFC 3261 9, 12.2, 13, 15). Must not know time, keys, or that there
are other calls. The caller is whoever sent the first INVITE; its From tag and the Call-ID name the call, the
other side's tag names a dialog of it.

A message is believed only where it fits: a final response must answer an INVITE that waits for one, a CANCEL
must name one, a BYE ends the dialog of its tags and no other.
"""

from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from typing import Final

from agent.model import Scan

TRANSACTIONS: Final = 16
"""INVITEs remembered per call, forks and retries: twice what one attempt may have uncounted."""

DIALOGS: Final = 16
"""Dialogs remembered per call, the answers to a forked INVITE; more phones than anybody rings at once."""

ANY_BRANCH: Final = b""
"""The branch of an INVITE that has none (RFC 2543) or whose branch is not known: any final response fits."""

GONE: Final = (408, 481)
"""Responses to a request within a dialog that end the dialog (RFC 3261 12.2.1.2)."""

CHALLENGES: Final = (401, 407)


class State(Enum):
    """Where a call is. It is ANSWERED exactly while a dialog is open."""

    SETUP = "setup"  # an INVITE waits for its final response
    CHALLENGED = "challenged"  # the caller will try again with credentials, or not
    CANCELLED = "cancelled"  # the final response decides, and a 2xx may have crossed the CANCEL
    ANSWERED = "answered"
    ENDED = "ended"

    __hash__ = object.__hash__  # the enumeration's own is written in Python, and members are singletons


class Event(Enum):
    """What a message means for its call, with the call's INVITEs and dialogs brought up to date."""

    INVITE = "a further INVITE waits for its final response"
    PROGRESS = "a provisional response"
    CHALLENGE = "401 or 407 to the last INVITE that waited"
    CANCEL = "the caller cancels the only INVITE that waits"
    ANSWER = "2xx, and a dialog is open"
    HUNG_UP = "the last open dialog ended, an INVITE still waits"
    OVER = "no INVITE waits and no dialog is open"
    BEYOND_BOUNDS = "a transaction or dialog more than one call may have; it is not remembered"

    __hash__ = object.__hash__


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.SETUP, Event.INVITE): State.SETUP,
    (State.SETUP, Event.PROGRESS): State.SETUP,
    (State.SETUP, Event.CHALLENGE): State.CHALLENGED,
    (State.SETUP, Event.CANCEL): State.CANCELLED,
    (State.SETUP, Event.ANSWER): State.ANSWERED,
    (State.SETUP, Event.OVER): State.ENDED,
    (State.SETUP, Event.BEYOND_BOUNDS): State.SETUP,
    (State.CHALLENGED, Event.INVITE): State.SETUP,
    (State.CHALLENGED, Event.CHALLENGE): State.CHALLENGED,
    (State.CHALLENGED, Event.ANSWER): State.ANSWERED,
    (State.CHALLENGED, Event.OVER): State.ENDED,
    (State.CANCELLED, Event.INVITE): State.SETUP,
    (State.CANCELLED, Event.PROGRESS): State.CANCELLED,
    (State.CANCELLED, Event.CHALLENGE): State.CHALLENGED,
    (State.CANCELLED, Event.CANCEL): State.CANCELLED,
    (State.CANCELLED, Event.ANSWER): State.ANSWERED,
    (State.CANCELLED, Event.OVER): State.ENDED,
    (State.ANSWERED, Event.INVITE): State.ANSWERED,
    (State.ANSWERED, Event.PROGRESS): State.ANSWERED,
    (State.ANSWERED, Event.CANCEL): State.ANSWERED,
    (State.ANSWERED, Event.ANSWER): State.ANSWERED,
    (State.ANSWERED, Event.HUNG_UP): State.SETUP,
    (State.ANSWERED, Event.OVER): State.ENDED,
    (State.ANSWERED, Event.BEYOND_BOUNDS): State.ANSWERED,
}
"""All that can happen. Anything else is an error of this module, and raises KeyError."""


NO_DIALOGS: Final[dict[bytes, bool]] = {}
"""Shared by the calls that have none yet; never written to."""


class Call:
    """One call: its INVITEs and dialogs, and what the table of calls keeps with it."""

    __slots__ = (
        "answered",
        "deadline",
        "dialogs",
        "done",
        "due",
        "key",
        "keys",
        "opened",
        "pending",
        "reservations",
        "state",
        "talking",
    )

    key: int
    keys: Sequence[Hashable]  # of all its reservations
    reservations: int  # how often it was opened
    opened: int  # tick
    deadline: int  # the tick at which it has expired
    due: int  # the tick at which the sweep looks at it again
    answered: bool  # ever
    state: State
    pending: tuple[bytes, ...]  # branches of the INVITEs that wait for a final response
    done: tuple[bytes, ...]  # branches of those that have one, so that a repeat of it changes nothing
    dialogs: dict[bytes, bool]  # tag -> open; one that ended stays, so that a repeated 2xx does not reopen it
    talking: int  # dialogs that are open

    def awaits(self, branch: bytes) -> bool:
        """Whether a final response with this branch is the one that an INVITE waits for."""
        return branch in self.pending or ANY_BRANCH in self.pending

    def pend(self, branch: bytes) -> Event | None:
        """An INVITE with this branch was sent; None if that is not news."""
        if self.awaits(branch) or branch in self.done:
            return None
        if branch == ANY_BRANCH and self.dialogs:
            return None  # the call was answered: a late copy of an INVITE
        if len(self.pending) >= TRANSACTIONS:
            return Event.BEYOND_BOUNDS
        self.pending = (*self.pending, branch)
        return Event.INVITE

    def settle(self, branch: bytes) -> None:
        """The INVITE with this branch has its final response."""
        settled = branch if branch in self.pending else ANY_BRANCH
        self.pending = tuple(b for b in self.pending if b != settled)
        if branch != ANY_BRANCH:
            self.done = (*self.done, branch)[-TRANSACTIONS:]

    def told_answered(self, tag: bytes) -> Event | None:
        """Somebody who follows the call himself says that it was answered; which INVITE he does not say."""
        waited = bool(self.pending)
        self._settle_all()
        if tag not in self.dialogs and not self.note_dialog(tag, is_open=True):
            return Event.BEYOND_BOUNDS
        if self.talking:
            return Event.ANSWER
        return Event.OVER if waited else None  # its BYE was quicker

    def told_over(self, status: int) -> Event | None:
        """He says that it is over, after this final response to its INVITE, or 0. A challenge is not the end of it."""
        if status not in CHALLENGES:
            return Event.OVER
        if self.talking:
            return None
        self._settle_all()
        return Event.CHALLENGE

    def _settle_all(self) -> None:
        for branch in self.pending:
            self.settle(branch)

    def note_dialog(self, tag: bytes, *, is_open: bool) -> bool:
        """Remember a dialog. One that ended makes room, so that made-up BYEs cannot crowd out an answer."""
        if len(self.dialogs) >= DIALOGS:
            ended = next((known for known, talks in self.dialogs.items() if not talks), None)
            if ended is None:
                return False
            del self.dialogs[ended]
        if self.dialogs is NO_DIALOGS:
            self.dialogs = {}
        self.dialogs[tag] = is_open
        self.talking += is_open
        return True

    def end_dialog(self, tag: bytes) -> Event | None:
        """The dialog ended; None if it was not open, or if another still is."""
        if not self.dialogs.get(tag):
            return None
        self.dialogs[tag] = False
        self.talking -= 1
        if self.talking:
            return None
        return Event.HUNG_UP if self.pending else Event.OVER


Meaning = Callable[[Call, Scan, bytes, bool], Event | None]
"""Brings a call up to date: (call, message, tag of the other side, whether the caller's tag is in From)."""


def meaning(message: Scan) -> Meaning | None:
    """How to read this message, or None if it can change no call."""
    status = message.status
    if status:
        if status <= 100:
            return None  # 100 Trying says nothing beyond this hop
        if message.cseq_method == "INVITE":
            if status < 200:
                return _progress
            return _answer if status < 300 else _failure
        return _gone if status in GONE and message.cseq_method != "CANCEL" else None
    method = message.method
    if method == "BYE":
        return _bye
    if method == "INVITE":
        return None if message.to_tag else _invite
    return _cancel if method == "CANCEL" else None


def _invite(call: Call, message: Scan, _tag: bytes, from_caller: bool) -> Event | None:
    """Without To tag and in a known call: a copy, a fork, or the retry after a challenge."""
    return call.pend(message.branch) if from_caller else None


def _cancel(call: Call, message: Scan, _tag: bytes, from_caller: bool) -> Event | None:
    """It ends nothing by itself: the INVITE's final response decides (RFC 3261 9.1)."""
    alone = from_caller and len(call.pending) == 1
    return Event.CANCEL if alone and call.awaits(message.branch) else None


def _bye(call: Call, _message: Scan, tag: bytes, _from_caller: bool) -> Event | None:
    """Ends its dialog, also one whose 2xx is still to come, which then opens nothing."""
    if tag and tag not in call.dialogs:
        return None if call.note_dialog(tag, is_open=False) else Event.BEYOND_BOUNDS
    return call.end_dialog(tag)


def _gone(call: Call, _message: Scan, tag: bytes, _from_caller: bool) -> Event | None:
    return call.end_dialog(tag)


def _progress(call: Call, message: Scan, tag: bytes, from_caller: bool) -> Event | None:
    """A provisional response also shows the retry whose INVITE we did not get to see."""
    if not from_caller or call.dialogs.get(tag):
        return None  # to a re-INVITE
    return Event.PROGRESS if call.awaits(message.branch) else call.pend(message.branch)


def _answer(call: Call, message: Scan, tag: bytes, from_caller: bool) -> Event | None:
    """A 2xx with a tag that is new opens a dialog; else it is a copy, or answers a re-INVITE."""
    remembered = tag in call.dialogs or call.note_dialog(tag, is_open=True)
    awaited = from_caller and call.awaits(message.branch)
    if awaited:
        call.settle(message.branch)
    if not remembered:
        return Event.BEYOND_BOUNDS
    if call.talking:
        return Event.ANSWER
    return Event.OVER if awaited and not call.pending else None


def _failure(call: Call, message: Scan, tag: bytes, from_caller: bool) -> Event | None:
    """300 and above: the end of an INVITE that waits, else of a re-INVITE, which may end the dialog."""
    if not from_caller or not _ends_invite(call, message.branch, tag):
        return call.end_dialog(tag) if message.status in GONE else None
    call.settle(message.branch)
    if call.pending or call.talking:
        return None
    return Event.CHALLENGE if message.status in CHALLENGES else Event.OVER


def _ends_invite(call: Call, branch: bytes, tag: bytes) -> bool:
    if call.dialogs.get(tag):  # a re-INVITE's, unless the branch says otherwise
        return branch != ANY_BRANCH and branch in call.pending
    if call.awaits(branch):
        return True
    # Nothing waits and nobody talks: the caller was challenged. This answers a retry that we did not see.
    return not (call.pending or call.talking or branch in call.done or tag in call.dialogs)
