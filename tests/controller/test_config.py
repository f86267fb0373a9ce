"""controller.toml: every key does something, is explained, and every error names its key; `sbc-controller check`."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from agent.model import ConfigError, ConfigErrors
from controller.artifacts.settings import Source
from controller.cli.main import main
from controller.config import DIRECTORY, Config, load_config, read_config
from tests.conftest import ROOT

EXAMPLE = ROOT / "packaging" / "controller.toml"
HEADER = r"^(?:# )?\[{1,2}[a-z.]+\]{1,2}$"


def sections() -> list[tuple[str, Any]]:
    """Name and settings class of every section."""
    hints = get_type_hints(Config)
    found = [(f.name, hints[f.name]) for f in fields(Config)]
    assert all(is_dataclass(settings) for _, settings in found)
    return found


def uncommented(text: str) -> str:
    """The example with every key in use."""
    return re.sub(r"^# (?=\[{1,2}[a-z.]+\]{1,2}$|[a-z_]+ = )", "", text, flags=re.MULTILINE)


def errors_of(text: str) -> dict[str, str]:
    with pytest.raises(ConfigErrors) as caught:
        read_config(text)
    return {error.field: error.reason for error in caught.value.errors}


def test_the_example_is_the_default_configuration() -> None:
    assert load_config(EXAMPLE) == read_config("")


def test_every_key_of_every_section_is_in_the_example_and_explained() -> None:
    text = EXAMPLE.read_text()
    for name, settings in [*sections(), ("artifacts.sources", Source)]:
        header = f"[[{name}]]" if name == "artifacts.sources" else f"[{name}]"
        assert f"{header}\n" in text, name
        section = re.split(HEADER, text.split(f"{header}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
        keys = [field.name for field in fields(settings) if not (name == "artifacts" and field.name == "sources")]
        for key in keys:
            assert re.search(rf"^(# )?{key} = ", section, re.MULTILINE), f"{name}.{key}"
        assert len(re.findall(r"^# [A-Z]", section, re.MULTILINE)) > 0, name


def test_every_key_of_the_example_is_right_when_it_is_taken_into_use() -> None:
    config = read_config(uncommented(EXAMPLE.read_text()))
    assert config.artifacts.sources[0].name == "industry"
    assert config.authority.certificate is not None


def test_everything_lies_in_one_folder_unless_it_is_said_otherwise(tmp_path: Path) -> None:
    config = read_config('[controller]\ndirectory = "/srv/fleet"\n[artifacts]\ndirectory = "/srv/lists"\n')
    assert config.store.file == Path("/srv/fleet/state.db")
    assert config.authority.directory == Path("/srv/fleet/authority")
    assert config.archive.directory == Path("/srv/fleet/archive")
    assert config.artifacts.directory == Path("/srv/lists")
    assert read_config("").controller.directory == DIRECTORY
    assert read_config("", tmp_path).store.file == tmp_path / "state.db"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("controller = 1", "controller"),
        ("[controller]\nname = 'No Name'", "controller.name"),
        ("[controller]\ndirectory = 1", "controller.directory"),
        ("[store]\nfile = 1", "store.file"),
        ("store = []", "store"),
        ("[store]\npostgresql = 'mysql://x/y'", "store.postgresql"),
        ("[listen]\nagents = 'localhost'", "listen.agents"),
        ("[listen]\nnames = ['a b']", "listen.names[0]"),
        ("[listen]\nadvertise = 'a'", "listen.advertise"),
        ("[listen]\nadvertise = 'a:0'", "listen.advertise"),
        ("[fleet]\nhealth = 0", "fleet.health"),
        ("[log]\nlevel = 'loud'", "log.level"),
        ("[metrics]\nlisten = '9811'", "metrics.listen"),
        ("[authority]\nkey = '/k'", "authority.certificate"),
        ("[authority]\nhours = 1", "authority.hours"),
        ("[authority]\nhours = 0", "authority.hours"),
        ("[authority]\nhours = -24", "authority.hours"),
        ("[authority]\nhours = nan", "authority.hours"),
        ("[authority]\nhours = 169", "authority.hours"),
        ("[lisen]\n", "lisen"),
        ("[fleet]\nhelth = 1", "fleet.helth"),
    ],
)
def test_an_error_names_its_key(text: str, field: str) -> None:
    assert field in errors_of(text)


def test_all_errors_come_at_once() -> None:
    assert set(errors_of("[fleet]\nhealth = 0\nopenings = 0\n[log]\nlevel = 1\n")) == {
        "fleet.health",
        "fleet.openings",
        "log.level",
    }


def test_check_says_what_would_run_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", str(EXAMPLE), "--directory", str(tmp_path / "state")]) == 0
    out = capsys.readouterr().out
    assert f"{EXAMPLE}: ok" in out
    assert "0.0.0.0:7443" in out
    assert not (tmp_path / "state").exists()


def test_check_hides_the_password_of_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "controller.toml"
    file.write_text('[store]\npostgresql = "postgresql://me:secret@db.example.net/fleet"\n')
    assert main(["check", "--config", str(file)]) == 0
    assert "secret" not in capsys.readouterr().out


def test_a_wrong_file_is_refused_with_every_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "controller.toml"
    file.write_text("[fleet]\nhealth = 0\nopenings = 0\n")
    assert main(["check", "--config", str(file)]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:3] for line in lines] == [
        ["sbc-controller", str(file), "fleet.health"],
        ["sbc-controller", str(file), "fleet.openings"],
    ]
    assert main(["run", "--config", str(tmp_path / "none.toml")]) == 78
    assert "cannot be read" in capsys.readouterr().err


def test_without_a_command_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "sbc-controller init" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "init", "check"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "--directory DIR" in capsys.readouterr().out


def test_init_makes_everything_and_shows_the_token_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "state"
    assert main(["init", "--directory", str(folder)]) == 0
    first = capsys.readouterr().out
    assert re.search(r"^login token:   sbcl_\w+$", first, re.MULTILINE)
    assert (folder / "authority" / "ca.key").stat().st_mode & 0o777 == 0o600
    assert main(["init", "--directory", str(folder)]) == 0
    again = capsys.readouterr().out
    assert "sbcl_" not in again
    assert first.splitlines()[:2] == again.splitlines()[:2]  # the same state, the same authority
    assert main(["init", "--directory", str(folder), "--admin", "jane"]) == 0
    assert re.search(r"^administrator: jane\nlogin token:   sbcl_", capsys.readouterr().out, re.MULTILINE)
    assert main(["init", "--directory", str(folder), "--admin", "jane"]) == 1
    assert main(["init", "--directory", str(folder), "--admin", "No Name"]) == 1


def test_init_says_where_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["init", "--directory", str(tmp_path / "file" / "state")]) == 78
    assert "controller.directory" in capsys.readouterr().err


def test_a_name_of_this_host_is_made_fit_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for host, name in (("SBC_1.Example.NET", "sbc_1.example.net"), ("---", "controller"), ("ü", "controller")):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        assert read_config("").controller.id == name


def test_a_missing_file_of_the_operator_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_config(tmp_path / "none.toml")
