"""What the fuzzer checks holds for every message of the corpus, the inputs that once failed among them."""

from pathlib import Path

import pytest

from agent.sip.framer import Framer
from tests.fuzz import checks
from tests.fuzz.harness import keep


def test_every_corpus_message_passes_the_checks_of_the_fuzzer(corpus: Path) -> None:
    messages = sorted((corpus / "sip").glob("*.sip"))
    assert len(messages) > 50
    for path in messages:
        try:
            checks.check(path.read_bytes())
        except Exception as error:
            error.add_note(f"corpus file: {path.name}")
            raise


def test_every_message_of_other_projects_passes_the_checks_of_the_fuzzer(shared_data: Path) -> None:
    for path in sorted((shared_data / "sip").rglob("*")):
        if path.is_file():
            checks.check(path.read_bytes())


def test_a_framer_that_depends_on_the_cutting_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Framer):
        def feed(self, chunk: bytes) -> list[bytes]:
            return super().feed(chunk[1:])

    monkeypatch.setattr(checks, "Framer", Forgetful)
    raw = b"OPTIONS sip:a SIP/2.0\r\nl: 0\r\n\r\n" * 9
    with pytest.raises(AssertionError):
        checks.check(raw)


def test_an_input_that_failed_is_kept_under_the_name_of_its_content(tmp_path: Path) -> None:
    path = keep(b"INVITE", tmp_path, "sip")
    assert (path.name, path.read_bytes()) == ("crash-96bfc81c.sip", b"INVITE")
