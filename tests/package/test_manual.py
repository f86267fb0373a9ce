"""Manual pages and completion say what the commands themselves say."""

import shutil
import subprocess
from pathlib import Path

import pytest

from agent.cli.main import COMMANDS
from tests.conftest import ROOT
from tools.package import completion, manual
from tools.package.commands import AGENT, CONTROLLER, CTL


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795000000")
    monkeypatch.chdir(ROOT)
    assert manual.main(["--version", "1.2.3", "--out", f"{tmp_path}/man"]) == 0
    return tmp_path / "man"


def test_every_command_has_a_page_and_stands_in_the_overview(pages: Path) -> None:
    overview = (pages / "sbc-edge-agent" / "sbc-agent.1").read_text()
    for name in COMMANDS:
        assert (pages / "sbc-edge-agent" / f"sbc-agent-{name}.1").exists()
        assert f"sbc\\-agent\\-{name}\\fR(1)" in overview


def test_every_option_of_every_action_is_in_its_page(pages: Path) -> None:
    for program in (AGENT, CONTROLLER, CTL):
        for command in program.commands():
            text = (pages / program.package / f"{program.name}-{command.name}.1").read_text()
            for one in (command, *command.actions):
                for option in one.options:
                    for name in option.option_strings:
                        assert manual.roff(name) in text, (command.name, name)


def test_every_page_formats_without_a_complaint(pages: Path) -> None:
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    for page in sorted(pages.rglob("*.[158]")):
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z", str(page)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), page.name


def test_line_that_looks_like_a_request_means_itself() -> None:
    assert manual.roff(".venv/bin/x -y \\n") == "\\&.venv/bin/x \\-y \\en"
    assert manual.roff("'quoted'") == "\\&'quoted'"


def test_pages_are_the_same_wherever_and_whenever_they_are_made(
    pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    manual.main(["--version", "1.2.3", "--out", f"{tmp_path}/again"])
    for page in pages.rglob("*.[15]"):
        assert page.read_bytes() == (tmp_path / "again" / page.relative_to(pages)).read_bytes()


def complete(words: str) -> list[str]:
    """What bash offers at the end of `words`."""
    bash = f"""
    _init_completion() {{
        words=({words}); cword=$((${{#words[@]}} - 1)); cur=${{words[cword]}}; prev=${{words[cword - 1]}}
    }}
    _filedir() {{ COMPREPLY=(FILES); }}
    {completion.script()}
    _sbc_agent; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", bash], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_commands_actions_options_and_files_are_completed() -> None:
    assert complete("sbc-agent po") == ["policy"]
    assert complete("sbc-agent policy ch") == ["check"]
    assert complete("sbc-agent policy check --js") == ["--json"]
    assert complete("sbc-agent policy check ''") == ["FILES"]
    assert complete("sbc-agent run --config ''") == ["FILES"]
    assert complete("sbc-agent setup --way q") == ["queue"]
    assert complete("sbc-agent setup --trunk ''") == []
