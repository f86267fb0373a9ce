"""Files between the agent and the helper of root: what is believed of them."""

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.setup import configure as configure_setup
from agent.cli.setup_upgrades import _source
from agent.host.apt import check_source
from agent.host.upgrade_files import (
    Outcome,
    Request,
    State,
    _json,
    _request,
    read_outcome,
    take_request,
    write_outcome,
    write_request,
)
from agent.host.upgrader import HostError
from agent.model import ConfigError

REQUEST = Request("fleet-00ff", "0.2.0~rc1", 1_800_000_000.0, 30.0)
ME = os.geteuid()


def test_a_request_is_taken_once(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    write_request(path, REQUEST)
    assert take_request(path, ME) == REQUEST
    assert take_request(path, ME) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"version": "../../etc/passwd"},
        {"version": "-o=x"},
        {"version": "1.0 sbc-edge-agent-kamailio"},
        {"version": "1:0.2.0"},
        {"version": "0.2.0/bookworm"},
        {"version": 2},
        {"id": "Fleet"},
        {"id": ""},
        {"expires_at": "now"},
        {"expires_at": 10**400},
        {"soak": 0},
        {"soak": 1e9},
    ],
    ids=str,
)
def test_a_request_that_is_none_is_removed_and_not_believed(tmp_path: Path, changed: dict[str, object]) -> None:
    path = tmp_path / "request.json"
    value = {"id": "fleet-1", "version": "0.2.0", "expires_at": 1.0}
    path.write_text(json.dumps(value | changed))
    with pytest.raises(ValueError, match=r"version|id|expires_at|soak"):
        take_request(path, ME)
    assert not path.exists()


def test_neither_links_nor_pipes_nor_files_of_others_are_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    write_request(secret, REQUEST)
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(secret)
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="symbolic links"):
        take_request(link, ME)
    with pytest.raises(ValueError, match="regular"):
        take_request(pipe, ME)
    with pytest.raises(ValueError, match="user"):
        take_request(secret, ME + 1)
    assert not link.is_symlink()


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(
        lambda value: json.dumps({"id": value, "version": value, "expires_at": value}).encode()
    )
)
def test_whatever_is_in_a_request_raises_nothing_but_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        _request(_json(data))


def test_an_outcome_comes_back_as_it_was_written_and_everybody_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    outcome = Outcome("fleet-1", "0.2.0", "0.1.0", State.RETURNED, "hook is not well", 5.0)
    write_outcome(path, outcome)
    assert read_outcome(path) == outcome
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"state": "of a later release"}', "[" * 10_000])
def test_an_outcome_that_cannot_be_understood_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "outcome.json"
    path.write_text(text)
    assert read_outcome(path) is None
    assert read_outcome(tmp_path / "none") is None


KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZw==\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"


def source(folder: Path, *more: str, key: str = KEY) -> str:
    import argparse

    (folder / "key.asc").write_text(key)
    parser = argparse.ArgumentParser()
    configure_setup(parser)
    return _source(parser.parse_args(["--key", str(folder / "key.asc"), *more]))


def test_a_source_has_the_key_in_it_and_is_one_that_must_be_signed(tmp_path: Path) -> None:
    path = tmp_path / "x.sources"
    path.write_text(source(tmp_path, "--repository", "file:/media/usb"))
    check_source(path)
    assert " .\n mDMEZw==\n" in path.read_text()


@pytest.mark.parametrize("url", ["ftp://x", "https://x y", "file:/x\nTrusted: yes", "cdrom:/x", ""])
def test_a_repository_is_a_plain_url(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="--repository"):
        source(tmp_path, "--repository", url)


@pytest.mark.parametrize("key", ["", "\N{SNOWMAN}", KEY + KEY, "x" * 100_000])
def test_a_key_is_one_armoured_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="--key"):
        source(tmp_path, "--repository", "https://packages.example.net", key=key)


@pytest.mark.parametrize(
    "text",
    ["Types: deb\n", "Signed-By: x\nTrusted: yes\n", "Signed-By: x\nAllow-Insecure: yes\n", "# Signed-By: x\n"],
)
def test_a_source_that_need_not_be_signed_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.sources"
    path.write_text(text)
    with pytest.raises(HostError):
        check_source(path)
