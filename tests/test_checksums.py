"""CRC-32C: the values of RFC 3720 B.4, and that all ways to compute it agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import native
from agent.checksums import crc32c, crc32c_py

VECTORS = [
    (b"", 0),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    (b"123456789", 0xE3069283),
]


@pytest.mark.parametrize(("data", "value"), VECTORS)
def test_the_values_of_the_rfc(data: bytes, value: int) -> None:
    assert crc32c(data) == crc32c_py(data) == value


@given(st.binary(max_size=300), st.integers(0, 300))
def test_it_can_be_computed_in_parts_by_either_twin(data: bytes, cut: int) -> None:
    whole = crc32c_py(data)
    assert crc32c(data) == whole
    assert crc32c(data[cut:], crc32c_py(data[:cut])) == whole
    assert crc32c_py(memoryview(data)[cut:], crc32c(data[:cut])) == whole


@given(st.binary(max_size=300))
def test_a_processor_without_the_instruction_comes_to_the_same(data: bytes) -> None:
    if native.crc32c is None:
        pytest.skip("no compiled twin here")
    assert native.crc32c.crc32c(data, 7, True) == crc32c_py(data, 7)


def test_long_data_and_views_of_it() -> None:
    data = bytes(range(256)) * 1024
    assert crc32c(memoryview(data)) == crc32c_py(data)
