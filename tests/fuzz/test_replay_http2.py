"""What the fuzzer checks holds for every input of the corpus, those that once failed among them."""

import random
from pathlib import Path

import pytest

from agent.rpc.call import Call
from tests.fuzz.http2_checks import check


def test_every_input_of_the_corpus_passes_the_checks_of_the_fuzzer(corpus: Path) -> None:
    inputs = sorted((corpus / "http2").glob("*.frames"))
    assert inputs
    for path in inputs:
        try:
            check(path.read_bytes())
        except Exception as error:
            error.add_note(f"corpus file: {path.name}")
            raise


def test_records_at_random_pass_the_checks_of_the_fuzzer() -> None:
    chance = random.Random(9113)
    for _ in range(500):
        check(chance.randbytes(1) + b"".join(a_record(chance) for _ in range(chance.randrange(40))))


def a_record(chance: random.Random) -> bytes:
    what = chance.choice([0, 1, 2, 3, 4, 6, 8, 9, 10, 11, 11, 11, 12, 12, 12, 13, 14, 14])
    payload = chance.randbytes(chance.choice([0, 4, 6, 8, 200]))
    return (
        bytes(
            (
                what,
                chance.choice([0, 1, 4, 5, 0x40, 0x41, 0x80, 0x81, 0xF0]),
                chance.choice([0, 1, 1, 3, 5, 7]),
                len(payload),
            )
        )
        + payload
    )


def test_a_call_that_keeps_what_it_has_no_use_for_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def data(self: Call, payload: bytes, _ended: bool) -> None:
        self._take(payload)

    monkeypatch.setattr(Call, "data", data)
    no_window = b"\x04\0\0\x06\x00\x04\0\0\0\0"
    echo_within_5_ms = b"\x0b\x50\x01\0" + b"\x0c\0\x01\x05hello"
    much_later = b"\x0e\x05\xff\0"
    half_a_message = b"\x00\0\x01\x06\0\0\0\x0f\xffx"
    with pytest.raises(AssertionError):
        check(b"\0" + no_window + echo_within_5_ms + much_later + half_a_message)
