"""The scan in Python, the compiled scan and the full parse read every message alike, or refuse it alike."""

from collections.abc import Iterator
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent import native
from tests.native.reading import disagreement, outcome, readers
from tests.native.sip_strategies import anything, damaged, messages


def files(folder: Path) -> Iterator[Path]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".json", ".md")]
    assert found, f"no messages in {folder}"
    return iter(found)


def test_on_every_message_of_our_corpus(corpus: Path) -> None:
    assert {p.name: d for p in files(corpus / "sip") if (d := disagreement(p.read_bytes()))} == {}


def test_on_every_message_of_other_projects(shared_data: Path) -> None:
    assert {str(p): d for p in files(shared_data / "sip") if (d := disagreement(p.read_bytes()[:65_536]))} == {}


def test_on_every_prefix_of_a_message_with_everything(corpus: Path) -> None:
    raw = (corpus / "sip" / "scan-folds-at-every-lws.sip").read_bytes()
    assert {cut: d for cut in range(len(raw) + 1) if (d := disagreement(raw[:cut]))} == {}


@settings(max_examples=1000)
@given(anything)
@example(b"")
@example(b"SIP/2.0 200\r")
@example(b'A a SIP/2.0\nf:"\\')
@example(b"A a SIP/2.0\nl:\r\r\n\r\n ")
def test_on_anything(raw: bytes) -> None:
    assert disagreement(raw) == ""


@settings(max_examples=500)
@given(st.data())
def test_on_damaged_messages_of_our_corpus(data: st.DataObject) -> None:
    folder = Path(__file__).parent.parent / "corpus" / "sip"
    seed = data.draw(st.sampled_from(list(files(folder))))
    raw = data.draw(damaged(st.just(seed.read_bytes()[:8000])))
    assert disagreement(raw) == ""


@given(messages(), st.binary(max_size=200))
def test_bytes_beyond_the_blank_line_change_nothing(raw: bytes, surplus: bytes) -> None:
    separated = raw + b"\n\r\n\r\n"
    for read in readers().values():
        before, after = outcome(read, separated), outcome(read, separated + surplus)
        assert {**before, "raw": b""} == {**after, "raw": b""}


def test_the_comparison_covers_all_fields_and_notices_a_difference() -> None:
    assert len(readers()) == (3 if native.sip is not None else 2)
    fields = outcome(readers()["full parse"], b"OPTIONS sip:a SIP/2.0\r\n\r\n")
    assert len(fields) == 21
    assert outcome(readers()["python"], b"OPTIONS sip:b SIP/2.0\r\n\r\n") != fields
