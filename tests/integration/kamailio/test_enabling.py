"""`sbc-edge-kamailio`: the hook goes into a configuration, and out of it without a trace."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.kamailio.module import INTEGRATION

PLAIN = """\
#!KAMAILIO
loadmodule "tm.so"
loadmodule "/usr/lib/kamailio/modules/sl.so"
#!ifdef WITH_TLS
loadmodule "pv.so"
#!endif
/* request_route { is what begins a script */
request_route {
    # first
    exit;
}
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module that keeps what it keeps below a folder of the test."""
    spec = importlib.util.spec_from_file_location("sbc_edge_kamailio", INTEGRATION / "sbc_edge_kamailio.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "STATE", tmp_path / "state" / "enabled")
    monkeypatch.setattr(module, "DROP_IN", tmp_path / "units" / "kamailio.service.d" / "50.conf")
    monkeypatch.setattr(module, "_daemon_reload", lambda: None)
    monkeypatch.setattr(module, "embedded_python_fits", lambda: None)
    monkeypatch.setattr(module, "check", lambda _config, *, what: None)
    return module


def test_blocks_stand_before_and_in_the_main_route(tool: ModuleType) -> None:
    lines = tool.enabled(PLAIN).splitlines()
    assert lines.index(tool.BEGIN) < lines.index("request_route {")
    inside = lines[lines.index("request_route {") + 1 :]
    assert inside[0] == tool.BEGIN
    assert inside[inside.index(tool.END) + 1] == "    # first"


def test_only_modules_that_are_surely_loaded_are_left_out(tool: ModuleType) -> None:
    added = tool.enabled(PLAIN).split("request_route {")[1]
    assert 'loadmodule "tm.so"' not in added.split("include_file")[0].split(tool.BEGIN)[-1]
    assert 'loadmodule "pv.so"' in tool.enabled(PLAIN).split(tool.BEGIN)[1]
    assert 'loadmodule "sl.so"' not in tool.enabled(PLAIN).split(tool.BEGIN)[1]


def test_reply_route_that_is_there_is_used(tool: ModuleType) -> None:
    text = PLAIN + "reply_route {\n    xlog(1);\n}\n"
    assert tool.enabled(text).count("reply_route {") == 1
    assert tool.enabled(text).count(tool.BEGIN) == 3
    assert tool.without(tool.enabled(text)) == text


def test_enabling_again_changes_nothing_more(tool: ModuleType) -> None:
    assert tool.enabled(tool.enabled(PLAIN)) == tool.enabled(PLAIN)


LINES = st.lists(st.sampled_from(["", "# x", "\tfoo();", "/* a", "b */", "route[X] {", "}", "#!define A", "\f", "é\r"]))


@given(LINES, LINES)
def test_what_was_put_in_comes_out_byte_for_byte(before: list[str], after: list[str]) -> None:
    spec = importlib.util.spec_from_file_location("sbc_edge_kamailio", INTEGRATION / "sbc_edge_kamailio.py")
    assert spec
    assert spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = "\n".join([*before, "request_route {", *after, "}", ""])
    try:
        enabled = tool.enabled(text)
    except tool.NotPossibleError:
        return
    assert tool.without(enabled) == text


@pytest.mark.parametrize("text", ["", '# KEMI\nloadmodule "app_lua.so"\n', PLAIN + PLAIN, "request_route { exit; }\n"])
def test_configuration_of_another_form_is_left_to_its_owner(tool: ModuleType, text: str) -> None:
    with pytest.raises(tool.NotPossibleError, match="by hand"):
        tool.enabled(text)


def test_mark_without_its_end_is_not_guessed_at(tool: ModuleType) -> None:
    with pytest.raises(tool.NotPossibleError, match="marks"):
        tool.without(f"a\n{tool.BEGIN}\nb\n")


def test_files_owner_mode_and_bytes_are_as_before_after_disable(tool: ModuleType, tmp_path: Path) -> None:
    config = tmp_path / "kamailio.cfg"
    config.write_bytes(PLAIN.encode() + b"# \xff caf\xe9\r\n")
    config.chmod(0o640)
    before, others = config.read_bytes(), set(tmp_path.iterdir())
    assert tool.main(["enable", "--config", str(config)]) == 0
    assert tool.main(["status", "--config", str(config)]) == 0
    assert tool.DROP_IN.exists()
    assert tool.main(["disable", "--all"]) == 0
    assert tool.main(["status", "--config", str(config)]) == 1
    assert config.read_bytes() == before
    assert config.stat().st_mode & 0o777 == 0o640
    assert not tool.DROP_IN.exists()
    assert not tool.STATE.exists()
    assert {p for p in tmp_path.iterdir() if p.name != "units"} == others


def test_nothing_changes_when_kamailio_says_no(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "kamailio.cfg"
    config.write_text(PLAIN)

    def refuse(_config: Path, *, what: str) -> None:
        if "hook" in what:
            raise tool.NotPossibleError(f"Kamailio says no to {what}")

    monkeypatch.setattr(tool, "check", refuse)
    assert tool.main(["enable", "--config", str(config)]) == 1
    assert config.read_text() == PLAIN
    assert list(tmp_path.iterdir()) == [config]
    assert "says no" in capsys.readouterr().err


def test_file_that_went_away_is_forgotten(tool: ModuleType, tmp_path: Path) -> None:
    config = tmp_path / "kamailio.cfg"
    config.write_text(PLAIN)
    assert tool.main(["enable", "--config", str(config)]) == 0
    config.unlink()
    assert tool.main(["disable", "--all"]) == 0
    assert not tool.STATE.exists()


def test_kamailio_takes_its_own_default_configuration_with_the_hook(tmp_path: Path) -> None:
    default = Path("/etc/kamailio/kamailio.cfg")
    if not shutil.which("kamailio") or not default.exists():
        pytest.skip("Kamailio with its default configuration is not installed")
    spec = importlib.util.spec_from_file_location("sbc_edge_kamailio", INTEGRATION / "sbc_edge_kamailio.py")
    assert spec
    assert spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for one in default.parent.iterdir():
        if one.is_file():
            shutil.copy(one, tmp_path)
    trial = tmp_path / "kamailio.cfg"
    # The routes as they are, with a client that loads without the private tree of an installed agent.
    client = tmp_path / "client.py"
    client.write_text(
        "def mod_init():\n    return Client()\n\n\nclass Client:\n    def child_init(self, rank):\n        return 0\n"
    )
    routes = tmp_path / "routes.cfg"
    routes.write_text(f'#!define SBC_EDGE_HOOK "{client}"\n' + (INTEGRATION / "sbc-edge-hook.cfg").read_text())
    tool.check(trial, what="the default")
    trial.write_text(tool.enabled(trial.read_text(), routes))
    tool.check(trial, what="the default with the hook")
    trial.write_text(trial.read_text().replace("route(SBC_EDGE_SCREEN);", "route(SBC_EDGE_SCREEM;"))
    with pytest.raises(tool.NotPossibleError, match="says no"):
        tool.check(trial, what="a configuration with a mistake")
