"""What needs no controller: help, completion, times, messages as plain values."""

import argparse
import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from controller.ctl.completion import script
from controller.ctl.main import COMMANDS, build_parser, main
from controller.ctl.output import ago, duration, moment, span
from controller.ctl.plain import plain
from sbcedge.fleet.v1 import fleet_pb2 as pb


def leaves(parser: argparse.ArgumentParser, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The words of every command that does something."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield path
    for action in below:
        for name, sub in action.choices.items():
            yield from leaves(sub, (*path, name))


def every_command() -> list[tuple[str, ...]]:
    found = []
    for name in COMMANDS:
        found += [path for path in leaves(build_parser(name), ()) if path[0] == name]
    return found


@pytest.mark.parametrize("path", every_command(), ids=" ".join)
def test_every_command_has_help_with_examples_and_exit_codes(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*path, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"sbcctl {path[0]}" in shown.split("examples:")[1]
    assert "exit codes: 0" in shown


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "sbcctl policy apply" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("ag",), {"agents", "agent"}),
        (("agent", "ex"), {"explain"}),
        (("policy", "apply", "--exp"), {"--expected-generation"}),
        (("limits", "set", "x", "--partition", ""), {"safe", "hold", "open"}),
        (("operators", "create", "--role", "ad"), {"admin"}),
        (("agents", "--watch", "--tr"), {"--trouble"}),
        (("records", "query", "--since", ""), set()),
        (("policy", "apply", "poli"), {"policy.toml"}),
        (("agents", "--authority", "poli"), {"policy.toml"}),
    ],
)
def test_bash_completes_commands_options_words_and_files(
    tmp_path: Path, typed: tuple[str, ...], expected: set[str]
) -> None:
    (tmp_path / "completion.sh").write_text(script())
    (tmp_path / "policy.toml").touch()
    asked = (
        'source ./completion.sh; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sbcctl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    # Outside of a completion compopt complains, and does nothing.
    answer = subprocess.run(
        ["bash", "-c", asked, "bash", "sbcctl", *typed], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert set(answer.stdout.split()) == expected


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800), ("30", 30), ("0.5s", 0.5)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@given(st.text(max_size=30))
def test_what_is_no_time_is_refused_in_words(text: str) -> None:
    for read in (duration, moment):
        with contextlib.suppress(argparse.ArgumentTypeError):
            assert isinstance(read(text), float)


def test_times_are_read_and_shown() -> None:
    assert moment("2026-10-14T15:04:05Z") == moment("2026-10-14T15:04:05") == 1_791_990_245.0
    assert time.time() - moment("15m") == pytest.approx(900, abs=5)
    assert ago(Timestamp(seconds=1000), 1090.0) == "2 min ago"
    assert ago(Timestamp(seconds=1000), 900.0) == "in 2 min"
    assert ago(Timestamp(), 900.0) == "never"
    assert [span(value) for value in (0.0, 59.0, 3600.0, 200_000.0)] == ["0 s", "59 s", "1 h", "2 d"]


def test_messages_become_plain_values() -> None:
    agent = pb.Agent(id="a", active_generation=1 << 60, trouble={"spool": "full"}, attempts_per_second=1.5)
    agent.last_seen.FromSeconds(1_791_990_245)
    shown = plain(agent)
    assert shown["last_seen"] == "2026-10-14T15:04:05Z"
    assert shown["certificate_not_after"] is None
    assert (shown["active_generation"], shown["trouble"]) == (1 << 60, {"spool": "full"})
    assert plain(pb.Operator(name="jane", role=pb.ROLE_OPERATOR))["role"] == "operator"
    assert plain(pb.PolicyInfo(sha256=b"\x01\xff"))["sha256"] == "01ff"
    assert plain(pb.ListAgentsResponse(agents=[agent]))["agents"][0]["id"] == "a"
