"""Lists on their way: what may be taken, and one download that is cut, corrupted or continued with something else."""

import hashlib
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agent.checksums import crc32c
from agent.control.artifacts import MANIFESTS_MAX, ArtifactFiles, Corrupt, Download, Unfit, faults_of
from agent.control.messages import Chunk, Manifest
from agent.deltas import make_delta
from tests.control.offering import a_list

SIGNER = Ed25519PrivateKey.generate()
KEYS = {"k1": SIGNER.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)}
CONTENT = random.Random(1).randbytes(10_000)
NEWER = CONTENT[:3000] + b"new" + CONTENT[3000:]


def manifest(content: bytes = CONTENT, generation: int = 2, name: str = "industry") -> Manifest:
    signed = b"whatever is signed"
    sha256 = hashlib.sha256(content).digest()
    return Manifest("dno", name, generation, sha256, len(content), 1, None, "k1", SIGNER.sign(signed), signed)


def faults(*manifests: Manifest, floors: dict[tuple[str, str], int] | None = None) -> list[str]:
    return [f.field for f in faults_of(manifests, KEYS, floors or {})]


def chunks(content: bytes, offset: int = 0, size: int = 1000, *, delta: bool = False) -> list[Chunk]:
    return [
        Chunk(at, content[at : at + size], crc32c(content[at : at + size]), len(content), delta)
        for at in range(offset, len(content), size)
    ]


@pytest.fixture
def files(tmp_path: Path) -> ArtifactFiles:
    files = ArtifactFiles(tmp_path / "lists")
    files.begin()
    return files


def download(files: ArtifactFiles, wanted: Manifest, base: bytes = b"") -> Download:
    one = Download(files, wanted, base)
    one.open()
    return one


def test_a_good_list_has_no_fault_and_each_wrong_field_is_named() -> None:
    good = manifest()
    assert faults(good) == []
    for wrong, field in (
        (replace(good, kind="music"), "kind"),
        (replace(good, name="../../etc"), "name"),
        (replace(good, name=""), "name"),
        (replace(good, name="x" * 65), "name"),
        (replace(good, sha256=b"short"), "sha256"),
        (replace(good, size=0), "size"),
        (replace(good, size=1 << 40), "size"),
        (replace(good, format_version=2), "format_version"),
        (replace(good, generation=0), "generation"),
        (replace(good, key_id="k2"), "key_id"),
        (replace(good, signed=b"something else"), "signature"),
        (replace(good, signature=b""), "signature"),
    ):
        assert faults(manifest(name="other"), wrong) == [f"artifacts[1].{field}"]


def test_a_list_is_taken_at_the_generation_that_was_confirmed_and_above_and_not_below() -> None:
    floors = {("dno", "industry"): 2}
    assert faults(manifest(generation=2), floors=floors) == []
    assert faults(manifest(generation=1), floors=floors) == ["artifacts[0].generation"]
    assert faults(manifest(generation=1, name="other"), floors=floors) == []


def test_the_same_name_twice_and_too_many_are_refused() -> None:
    assert faults(manifest(), manifest()) == ["artifacts[1].name"]
    assert faults(*(manifest(name=f"n{n}") for n in range(MANIFESTS_MAX + 1))) == ["artifacts"]


def test_a_download_that_is_cut_after_every_chunk_goes_on_where_it_was(files: ArtifactFiles) -> None:
    wanted = manifest()
    for n in range(10):
        one = download(files, wanted)
        assert (one.offset, one.done) == (n * 1000, False)
        one.take(chunks(CONTENT, one.offset)[0])
        one.close()
    one = download(files, wanted)
    one.take(Chunk(10_000, b"", 0, 10_000))  # there is nothing more
    assert one.done
    one.close()
    assert files.adopt(one.whole, wanted.sha256)
    assert files.intact(wanted)


def test_a_chunk_that_is_not_what_was_sent_is_not_written(files: ArtifactFiles) -> None:
    wanted = manifest()
    one = download(files, wanted)
    first, second, *_ = chunks(CONTENT)
    one.take(first)
    for wrong in (
        replace(second, data=b"x" + second.data[1:]),
        replace(second, crc32c=second.crc32c ^ 1),
        replace(second, offset=2000),
        replace(second, offset=0),
        Chunk(1000, CONTENT + b"more", crc32c(CONTENT + b"more")),
    ):
        with pytest.raises(Corrupt):
            one.take(wrong)
    one.take(second)
    assert one.offset == 2000
    one.close()


def test_another_size_than_the_manifests_is_refused_before_anything_is_written(files: ArtifactFiles) -> None:
    for total in (9_999, 10_001, 1 << 50):
        one = download(files, manifest())
        with pytest.raises(Unfit, match="the manifest says 10000"):
            one.take(replace(chunks(CONTENT)[0], total=total))
        assert not one.whole.exists()


def test_a_result_of_another_hash_is_thrown_away(files: ArtifactFiles) -> None:
    wanted = manifest()
    other = CONTENT[:-1] + b"x"
    one = download(files, wanted)
    for chunk in chunks(other):
        one.take(chunk)
    one.close()
    assert one.done
    assert not files.adopt(one.whole, wanted.sha256)
    assert list(files.path(b"x").parent.iterdir()) == []


def have(files: ArtifactFiles, content: bytes) -> bytes:
    sha256 = hashlib.sha256(content).digest()
    files.path(sha256).write_bytes(content)
    return sha256


def test_a_delta_is_applied_and_only_its_result_counts(files: ArtifactFiles) -> None:
    base, wanted, delta = have(files, CONTENT), manifest(NEWER), make_delta(CONTENT, NEWER)
    assert delta is not None
    one = download(files, wanted, base)
    for chunk in chunks(delta, size=50, delta=True):
        one.take(chunk)
    one.close()
    assert files.patch(base, one.delta, wanted)
    assert files.intact(wanted)


def test_a_delta_that_is_damaged_or_to_something_else_makes_no_list(files: ArtifactFiles) -> None:
    base, wanted, delta = have(files, CONTENT), manifest(NEWER), make_delta(CONTENT, NEWER)
    assert delta is not None
    for position in range(len(delta)):
        broken = bytearray(delta)
        broken[position] ^= 1
        path = files.path(base).with_name("delta")
        path.write_bytes(broken)
        if files.patch(base, path, wanted):  # a bit that zlib does not look at
            assert files.intact(wanted)
            files.path(wanted.sha256).unlink()
        assert sorted(p.name for p in files.path(b"x").parent.iterdir()) == [base.hex()]


def test_whoever_has_no_delta_begins_with_the_whole(files: ArtifactFiles) -> None:
    base, wanted = have(files, CONTENT), manifest(NEWER)
    one = download(files, wanted, base)
    for chunk in chunks(NEWER):
        one.take(chunk)
    one.close()
    assert one.done
    assert one.base == b""
    assert files.adopt(one.whole, wanted.sha256)


def test_part_of_a_delta_does_not_go_on_with_the_whole_nor_the_other_way(files: ArtifactFiles) -> None:
    base, wanted, delta = have(files, CONTENT), manifest(NEWER), make_delta(CONTENT, NEWER)
    assert delta is not None
    one = download(files, wanted, base)
    one.take(chunks(delta, size=50, delta=True)[0])
    one.close()
    one = download(files, wanted, base)
    assert one.offset == 50
    with pytest.raises(Unfit):
        one.take(chunks(NEWER, 50)[0])
    one = download(files, wanted, base)
    assert one.offset == 0
    one.close()
    with pytest.raises(Unfit):
        download(files, wanted).take(chunks(delta, size=50, delta=True)[0])


@given(st.lists(st.tuples(st.integers(0, 20_000), st.binary(max_size=50), st.integers(0, 20_000), st.booleans())))
def test_whatever_comes_is_written_in_order_or_refused(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[int, bytes, int, bool]]
) -> None:
    files = ArtifactFiles(tmp_path_factory.mktemp("lists"))
    one = download(files, manifest())
    written = b""
    for offset, data, total, delta in said:
        try:
            one.take(Chunk(offset, data, crc32c(data), total, delta))
        except Corrupt:
            continue
        except Unfit:
            break
        written += data
        assert one.offset == len(written) <= 10_000
    one.close()


def test_what_nobody_needs_goes_and_names_for_people_stay(files: ArtifactFiles) -> None:
    old, new = manifest(), manifest(NEWER, 3)
    have(files, CONTENT)
    have(files, NEWER)
    folder = files.path(b"x").parent
    (folder / f"{'ab' * 32}.part").touch()
    (folder / f"{'ab' * 32}.from-{'cd' * 32}").touch()
    (folder / f"{new.sha256.hex()}.part").touch()
    (folder / ".x.tmp").touch()
    (folder / "notes").touch()
    files.publish([old])
    files.publish([new])
    files.sweep([new], [new])
    names = {path.name for path in folder.iterdir()}
    assert names == {new.sha256.hex(), f"{new.sha256.hex()}.part", "dno-industry", "notes"}
    assert (folder / "dno-industry").read_bytes() == NEWER


def test_a_list_that_is_damaged_or_missing_is_not_intact(files: ArtifactFiles) -> None:
    wanted = manifest()
    assert not files.intact(wanted)
    have(files, CONTENT)
    assert files.intact(wanted)
    path = files.path(wanted.sha256)
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    assert not files.intact(wanted)
    path.write_bytes(CONTENT[:-1])
    assert not files.intact(wanted)


def test_files_of_a_download_belong_to_whom_the_directory_belongs(files: ArtifactFiles) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.chown(files.path(b"x").parent, 65534, 65534)
    one = download(files, manifest())
    assert one.whole.stat().st_uid == 65534
    one.close()


def test_a_sweep_leaves_what_is_needed_and_takes_all_that_was_left_of_others(files: ArtifactFiles) -> None:
    needed, other = have(files, b"needed"), have(files, b"other")
    folder = files.path(needed).parent
    here, there = needed.hex(), other.hex()
    wanted = a_list(content=b"needed")
    files.publish([wanted, a_list(content=b"other", name="old")])
    for name in (f"{there}.part", f"{here}.from-{there}", f"{'ab' * 32}.part", "x.tmp", "notes.txt"):
        (folder / name).write_bytes(b"left")
    assert files.sweep([wanted], [wanted]) == 6
    assert {path.name for path in folder.iterdir()} == {here, "dno-industry", "notes.txt"}
    (folder / here).unlink()
    (folder / f"{here}.part").write_bytes(b"half")  # on its way
    assert files.sweep([wanted], [wanted]) == 0
