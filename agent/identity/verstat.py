"""The verification status as the called party's network reads it: `verstat`, a parameter of the number it is about.

Its standard place is the number: within the userinfo of a SIP URI, behind the number of a tel URI (3GPP TS 24.229
7.2A.20). Other places are seen; none of them survives here, or a caller would verify himself.
"""

import re
from typing import Final

from agent.identity.model import Verstat
from agent.sip.address import read_address
from agent.sip.headers import split_addresses
from agent.sip.message import parse

# In a URI, from ";" to whatever ends a parameter there.
_VERSTAT: Final = re.compile(rb";verstat(?:=[^;@?>:]*)?(?=[;@?>:]|\Z)", re.IGNORECASE)
_USER: Final = re.compile(rb"(sips?:[^@:]*)((?::[^@]*)?@.*)", re.IGNORECASE | re.DOTALL)
_TEL: Final = re.compile(rb"(tel:[^?]*)(.*)", re.IGNORECASE | re.DOTALL)


def marked(value: bytes, verstat: Verstat) -> bytes:
    """One unfolded name-addr or addr-spec that says this status of its number, in angle brackets.

    Its display name and header parameters stay. A URI without a user has no number, and stays as it is.
    """
    uri, rest = read_address(value)
    before = value[: value.rfind(b"<" + uri)] if b"<" + uri in value else b""
    return before + b"<" + marked_uri(uri, verstat) + b">" + rest


def marked_uri(uri: bytes, verstat: Verstat) -> bytes:
    """The URI with this status in the standard place and nowhere else."""
    bare = _VERSTAT.sub(b"", uri)
    match = _USER.fullmatch(bare) or _TEL.fullmatch(bare)
    return bare if match is None else match[1] + b";verstat=" + verstat.value.encode("ascii") + match[2]


def asserted_rows(raw: bytes, verstat: Verstat) -> tuple[bytes, ...]:
    """The values of a message's P-Asserted-Identity, one a row, each with this status. Raises ParseError for no SIP."""
    rows = parse(raw).header("P-Asserted-Identity")
    return tuple(marked(value, verstat) for row in rows for value in split_addresses(row) if read_address(value)[0])
