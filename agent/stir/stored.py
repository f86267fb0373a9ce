"""What lies on disk of things that were fetched: a line of JSON that says what it is, then the bytes as they came.

Pure: to and from the bytes of a file. A file that was cut, mixed up or altered by accident is told apart by its
SHA-256; nothing here protects from somebody who may write to the directory.
"""

import hashlib
import json
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

FORMAT: Final = 1
HEADER_MAX: Final = 8192
"""Bytes of the line: a URL of 2048 characters, escaped, and some numbers."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Something fetched from `source` (URL or file name). Times in epoch seconds.

    `fresh_until` and `usable_until` are those of a certificate. `signer` is the certificate that signed a trust list,
    where the list did not bring it along. `body` is as it came.
    """

    source: str
    fetched: float
    body: bytes
    signer: bytes = b""
    fresh_until: float = 0.0
    usable_until: float = 0.0

    def encode(self) -> bytes:
        """The bytes of the file."""
        content = self.signer + self.body
        header = {
            "format": FORMAT,
            "source": self.source,
            "fetched": float(self.fetched),
            "fresh_until": float(self.fresh_until),
            "usable_until": float(self.usable_until),
            "signer_bytes": len(self.signer),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        return json.dumps(header).encode() + b"\n" + content


def read_stored(data: bytes) -> Stored:
    """The content of a file. Raises ValueError, in words, for anything that `encode` did not write."""
    line, newline, content = data.partition(b"\n")
    if not newline or len(line) > HEADER_MAX:
        raise ValueError("has no header")
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("has a header that is no JSON") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"is not of format {FORMAT}")
    if header.get("sha256") != hashlib.sha256(content).hexdigest():
        raise ValueError("is damaged: its SHA-256 is another")
    source, split = header.get("source"), header.get("signer_bytes")
    if not isinstance(source, str) or type(split) is not int or not 0 <= split <= len(content):
        raise ValueError("has a header that is not ours")
    times = [_time(header, name) for name in ("fetched", "fresh_until", "usable_until")]
    return Stored(source, times[0], content[split:], content[:split], *times[1:])


def _time(header: dict[str, Any], name: str) -> float:
    value = header.get(name)
    if isinstance(value, float) and isfinite(value):
        return value
    raise ValueError(f"has a header whose {name} is no time")
