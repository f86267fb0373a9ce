"""Files are replaced as a whole or not at all, and read without surprises."""

import errno
import mmap
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.files import MAX_LINE, map_file, read_lines, replace_file, unmap

ROOT = Path(__file__).resolve().parent.parent


def test_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.list"
    replace_file(path, [b"one", memoryview(b" two")])
    assert path.read_bytes() == b"one two"
    replace_file(path, [b"three"])
    assert path.read_bytes() == b"three"
    assert os.listdir(tmp_path) == ["a.list"]  # noqa: PTH208


def test_new_file_is_readable_by_all_and_a_replaced_one_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.list"
    replace_file(path, [b"1"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.chmod(0o640)
    replace_file(path, [b"2"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_secret_is_never_readable_by_others_even_where_a_readable_file_was(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    for _ in range(2):
        path.write_bytes(b"old")
        path.chmod(0o644)
        replace_file(path, [b"secret"], 0o600)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_symbolic_link_keeps_pointing_to_what_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "a.list", tmp_path / "a.list"
    target.write_bytes(b"old")
    link.symlink_to(target)
    replace_file(link, [b"new"])
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.list"
    path.write_bytes(b"old")

    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        replace_file(path, chunks())
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.list"]  # noqa: PTH208


def test_failing_fsync_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.list"
    path.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, [b"new"])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.list"]  # noqa: PTH208


def test_write_that_the_system_refuses_leaves_the_old_file(tmp_path: Path) -> None:
    """A real refusal of write(2): the process may not make files larger than 4 kB."""
    path = tmp_path / "a.list"
    path.write_bytes(b"old")
    code = (
        "import resource, signal, sys; from pathlib import Path; from agent.files import replace_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: replace_file(Path(sys.argv[1]), [bytes(1 << 20)] * 4)\n"
        "except OSError: sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 7
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.list"]  # noqa: PTH208


def test_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "no" / "a.list", [b"x"])


def test_mapped_file_is_read_only_memory_until_it_is_unmapped(tmp_path: Path) -> None:
    path = tmp_path / "a.list"
    path.write_bytes(b"0123456789")
    memory = map_file(path)
    assert (bytes(memory), memory.readonly) == (b"0123456789", True)
    part = memory[2:4]
    mapping = memory.obj
    with pytest.raises(BufferError):
        unmap(memory)
    part.release()
    assert isinstance(mapping, mmap.mmap)
    mapping.close()


def test_mapping_survives_the_replacement_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.list"
    path.write_bytes(b"old" * 10_000)
    memory = map_file(path)
    replace_file(path, [b"new"])
    assert bytes(memory) == b"old" * 10_000
    unmap(memory)


def test_empty_file_maps_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    memory = map_file(path)
    assert len(memory) == 0
    unmap(memory)


def test_missing_file_and_folder_are_os_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        map_file(tmp_path / "no")
    with pytest.raises(IsADirectoryError):
        map_file(tmp_path)


def test_lines_keep_their_ends_and_positions_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\r\nb\n\nc")
    assert list(read_lines(path)) == [b"a\r\n", b"b\n", b"\n", b"c"]
    path.write_bytes(b"x\n" * 10_000)
    told: list[float] = []
    assert sum(1 for _ in read_lines(path, told.append)) == 10_000
    assert told == [8192, 16384]


def test_line_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(b"\n" + bytes(MAX_LINE + 1))
    with pytest.raises(ValueError, match="line 2 is longer"):
        list(read_lines(path))
