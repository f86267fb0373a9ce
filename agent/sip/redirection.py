"""Where a redirected call goes: the Contact of a 302, made from the Request-URI and a next hop.

Knows URIs as bytes. Must not know trunks or policy. The caller's URI is not trusted: nothing in it may choose another
host than the next hop, or become a header of the redirected INVITE.
"""

import re
from typing import Final

from agent.sip.grammar import TELEPHONE

# What nearly every call has, in one match: a number or name, a host, and no parameter but user=phone.
_PLAIN: Final = re.compile(rb"(sips?:[A-Za-z0-9+\-_.]++@)[A-Za-z0-9\-.]++(?::[0-9]++)?(;user=phone)?")
# SIP-URI = "sip:" [ userinfo ] hostport uri-parameters [ headers ]; "@" stands unescaped only behind userinfo
_SIP_URI: Final = re.compile(
    rb"(sips?):(?:([^@]*+)@)?(?:\[[^\]]*+\])?[^;?]*+([^?]*+)(?:\?.*+)?", re.IGNORECASE | re.DOTALL
)
_TEL_URI: Final = re.compile(rb"tel:([^;?]*+)([^?]*+)(?:\?.*+)?", re.IGNORECASE | re.DOTALL)

# Parameters that speak of the host that is replaced (RFC 3261 19.1.1); maddr would even overrule the next hop.
_OF_THE_HOST: Final = re.compile(rb";(?:maddr|ttl|transport|lr)(?:=[^;]*+)?(?=;|\Z)", re.IGNORECASE)

# What would end the <> of Contact, its row, or stand for nothing in a URI (RFC 3986 2).
_UNSAFE: Final = re.compile(rb"[\x00-\x20\x7f-\xff<>\"\\^`{|}]")


def redirected(request_uri: bytes, next_hop: bytes) -> bytes:
    """The Request-URI at `next_hop` ("host", "host:port", "[address]:port"), fit to stand in <>.

    User part and parameters stay, apart from those that are about the host. Headers ("?...") go: a Request-URI has
    none (RFC 4475 3.1.2.11), and a Contact's would be put into the next INVITE. A tel URI becomes a SIP URI
    (RFC 3261 19.1.6). Of any other scheme, such as urn:service:sos (RFC 5031), there is no host to replace: it stays,
    and the SBC routes it.
    """
    if match := _PLAIN.fullmatch(request_uri):
        return match[1] + next_hop + (match[2] or b"")
    if match := _SIP_URI.fullmatch(request_uri):
        scheme, user, params = match.groups()
        at = b"" if user is None else user + b"@"
        return _safe(scheme + b":" + at + next_hop + _OF_THE_HOST.sub(b"", params))
    if (match := _TEL_URI.fullmatch(request_uri)) and TELEPHONE.fullmatch(match[1]):
        return _safe(b"sip:" + match[1] + match[2] + b"@" + next_hop + b";user=phone")
    return _safe(request_uri)


def _safe(uri: bytes) -> bytes:
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], uri)
