"""What must hold for every string of bytes, whoever sent it. The fuzzer and the ordinary tests run the same checks."""

from dataclasses import replace

from agent.model import ParseError
from agent.sip.address import parse_address, read_address
from agent.sip.answers import build_answer, decline, read_block_reason
from agent.sip.framer import Framer
from agent.sip.headers import read_param
from agent.sip.message import Facts, Message, facts, parse
from agent.sip.scan import MAX_MESSAGE, scan
from tests.native.reading import disagreement


def check(raw: bytes) -> None:
    """Raise AssertionError, or whatever the product raises that it should not, if `raw` gets the better of us."""
    difference = disagreement(raw)
    assert not difference, difference
    for resync in (False, True):
        check_framing(raw, resync=resync)
    try:
        message = parse(raw)
    except ParseError:
        return
    parse(raw, stream=True)
    check_serialised(message)
    check_readers(message)
    check_answer(message)


def check_framing(raw: bytes, *, resync: bool) -> None:
    """How a stream is cut into chunks decides nothing; what comes out of it in path is a message."""
    whole = frame([raw], resync=resync)
    # A different cut for every input, and no more than some dozens of chunks: speed finds more than thoroughness.
    cut = len(raw) // 40 + raw[len(raw) // 2] % 40 + 1 if raw else 1
    pieces = [raw[at : at + cut] for at in range(0, len(raw), cut)]
    assert frame(pieces, resync=resync) == whole
    for message in whole[0]:
        if len(message) <= MAX_MESSAGE:
            scan(message)


def frame(chunks: list[bytes], *, resync: bool) -> tuple[list[bytes], int, str]:
    framer = Framer(resync=resync)
    messages: list[bytes] = []
    for chunk in chunks:
        messages += framer.feed(chunk)
        if framer.error:
            return messages, 0, str(framer.error)
    return messages, framer.dropped + framer.pending, ""


def check_serialised(message: Message) -> None:
    """Written out and read again it is the same message."""
    again = message.serialise()
    if len(again) > MAX_MESSAGE:
        return
    reread = parse(again)
    assert without_place(facts(reread)) == without_place(facts(message))
    assert [(row.name, row.value) for row in reread.rows] == [(row.name, row.value) for row in message.rows]
    assert reread.body == message.body
    assert reread.serialise() == again


def without_place(facts: Facts) -> Facts:
    return replace(facts, raw=b"", body_offset=0)


def check_readers(message: Message) -> None:
    """Every reader of a value reads it or raises ParseError."""
    read_block_reason(message)
    for row in message.rows:
        try:
            bytes(parse_address(row.value))
        except (ParseError, ValueError):
            continue


def check_answer(message: Message) -> None:
    """A request is answered so that its sender can match the answer (RFC 3261 8.2.6.2, 17.1.3), or not at all."""
    if message.status or message.method == "ACK":
        return
    defective = {defect.place.lower() for defect in message.defects}
    if "message" in defective:  # there are more than are listed
        defective |= {"via", "to"}
    asked = facts(message)
    for source in (None, ("192.0.2.1", 5060)):
        try:
            response = build_answer(message.raw, decline(), to_tag="ours", source=source)
        except ParseError:
            return
        if len(response) > MAX_MESSAGE:
            return
        assert frame([response], resync=False) == ([response], 0, "")
        answered = facts(parse(response))
        assert answered.status == 603
        same = ["call_id", "cseq", "cseq_method", "from_uri", "from_tag"]
        # What is added to a Via or To that no grammar describes may end up inside a quote that it never closed.
        if source is None or "via" not in defective:
            same += ["branch", "sent_by"]
        if "to" not in defective:
            same += ["to_uri"]
            # `;tag` without a value is there already: a second one would contradict it (RFC 3261 7.3.1).
            has_tag = read_param(read_address(message.first("To"))[1], b"tag") is not None
            assert answered.to_tag == (asked.to_tag if has_tag else b"ours")
        for field in same:
            assert getattr(answered, field) == getattr(asked, field), (field, source)
