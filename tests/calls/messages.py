"""SIP messages as the scan would report them, written by their fields. Numbers are 555-01XX, hosts example.*."""

from dataclasses import dataclass, replace

FROM = b"sip:+12015550123@a.example.com"
TO = b"sip:+13035550199@sbc.example.net"


@dataclass(frozen=True)
class Message:
    """A `model.Scan` whose fields one sets."""

    raw: bytes = b""
    method: str = ""
    status: int = 0
    request_uri: bytes = TO
    branch: bytes = b"z9hG4bK1"
    sent_by: bytes = b"192.0.2.10:5060"
    call_id: bytes = b"call-1"
    cseq: int = 1
    cseq_method: str = "INVITE"
    from_uri: bytes = FROM
    from_tag: bytes = b"caller"
    to_uri: bytes = TO
    to_tag: bytes = b""
    asserted: tuple[bytes, ...] = ()
    identity: tuple[bytes, ...] = ()
    diversion: tuple[bytes, ...] = ()
    privacy: bytes = b""
    priority: bytes = b""
    resource_priority: bytes = b""
    content_length: int = 0
    body_offset: int = 0

    def but(self, **changes: object) -> "Message":
        return replace(self, **changes)  # type: ignore[arg-type]  # the fields are checked by whoever reads them


INVITE = Message(method="INVITE")


def response(status: int, to_tag: bytes = b"called", **changes: object) -> Message:
    """A response to the caller's INVITE."""
    return Message(status=status, to_tag=to_tag, request_uri=b"").but(**changes)


def request(method: str, to_tag: bytes = b"called", branch: bytes = b"z9hG4bKother", **changes: object) -> Message:
    """A request of the caller within the dialog."""
    return Message(method=method, cseq_method=method, cseq=2, to_tag=to_tag, branch=branch).but(**changes)


def from_called_side(message: Message) -> Message:
    """The same request, or the response to it, in the other direction: the tags swap."""
    return message.but(from_tag=message.to_tag, to_tag=message.from_tag)
