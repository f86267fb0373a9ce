"""Strict DER (X.690 10): tags and lengths, and the few string and number types that certificates of STIR use.

Knows nothing of certificates. The library reads X.509; this reads the extensions that the library does not know, and
finds the received bytes that were signed. Bytes that DER would write otherwise are refused: whoever signs two
encodings of one value may mean two things. Nothing here recurses.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
UTF8_STRING: Final = 0x0C
IA5_STRING: Final = 0x16
SEQUENCE: Final = 0x30

CONSTRUCTED: Final = 0xA0
"""The identifier octet of [n] EXPLICIT is CONSTRUCTED + n (context class, constructed)."""

_LONG_TAG: Final = 0x1F
# Bytes of a length beyond 127. Three count to 16 MiB, more than any document that is read here.
_LENGTH_BYTES: Final = 3
# Bytes of an INTEGER: the longest is the serial number of a certificate, 20 bytes by RFC 5280 4.1.2.2, some exceed it.
_INTEGER_BYTES: Final = 64


class DerError(ValueError):
    """The bytes are not the DER of what was asked for."""


class Element(NamedTuple):
    """One value: its identifier octet, its content, and all of it as received (`encoded`)."""

    tag: int
    content: bytes
    encoded: bytes


def read_element(data: bytes, start: int = 0) -> Element:
    """The value that begins at `start`. Raises DerError."""
    if len(data) - start < 2:
        raise DerError("ends inside a tag or length")
    tag, length, begin = data[start], data[start + 1], start + 2
    if tag & _LONG_TAG == _LONG_TAG:
        raise DerError("has a tag number beyond 30")
    if length > 127:
        size = length & 0x7F
        if not 1 <= size <= _LENGTH_BYTES:
            raise DerError("has an indefinite or immense length")
        length = int.from_bytes(data[begin : begin + size], "big")
        begin += size
        if length < 128 or length < 1 << 8 * (size - 1):
            raise DerError("has a length that is not the shortest")
    end = begin + length
    if end > len(data):
        raise DerError("ends inside a value")
    return Element(tag, data[begin:end], data[start:end])


def read_only(data: bytes, tag: int) -> bytes:
    """The content of the one value that `data` consists of, of this tag. Raises DerError."""
    element = read_element(data)
    if element.tag != tag:
        raise DerError(f"has tag {element.tag:#04x} in place of {tag:#04x}")
    if len(element.encoded) != len(data):
        raise DerError("has bytes after its end")
    return element.content


def read_elements(content: bytes, most: int) -> Iterator[Element]:
    """The values inside a constructed one, in order. Raises DerError, also for more than `most`."""
    position = 0
    for _ in range(most):
        if position == len(content):
            return
        element = read_element(content, position)
        position += len(element.encoded)
        yield element
    if position != len(content):
        raise DerError(f"has more than {most} elements")


def read_integer(content: bytes) -> int:
    """The INTEGER of this content. Raises DerError."""
    if not 1 <= len(content) <= _INTEGER_BYTES:
        raise DerError("has an INTEGER of no or of too many bytes")
    if len(content) > 1 and (content[0], content[1] >> 7) in ((0x00, 0), (0xFF, 1)):
        raise DerError("has an INTEGER that is not the shortest")
    return int.from_bytes(content, "big", signed=True)


def write_element(tag: int, *contents: bytes) -> bytes:
    """The DER of a value of this tag whose content is these bytes one after another."""
    content = b"".join(contents)
    length = len(content)
    if length < 128:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content


def write_integer(value: int) -> bytes:
    """The DER of an INTEGER that is not negative."""
    return write_element(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))
