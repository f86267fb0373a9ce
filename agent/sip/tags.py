"""The To tag that we give, which also names the transaction. Knows the identifiers of RFC 3261 17.2.3.

A tag without randomness: every copy of a request gets the same answer (RFC 3261 17.2.1) from a server that remembers
nothing (8.2.7), and its ACK and its CANCEL lead to the same tag. Keyed, so that nobody can guess it.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from agent import native
from agent.model import Scan


def transaction_tag_py(secret: bytes, message: Scan) -> str:
    """16 hexadecimal digits of Call-ID, From tag, topmost branch and sent-by, and CSeq number, under a secret of up to
    64 bytes. Raises ValueError for a longer one."""
    seed = b"\0".join((message.call_id, message.from_tag, message.branch, message.sent_by, b"%d" % message.cseq))
    return blake2b(seed, digest_size=8, key=secret).hexdigest()


transaction_tag: Final[Callable[[bytes, Scan], str]] = (
    native.answer.transaction_tag if native.answer else transaction_tag_py
)
