"""The bootstrap file: every key does something, is explained, and every error names its key."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from agent.config import MAX_CONFIG_BYTES, Config, load_config, read_config
from agent.model import ConfigError, ConfigErrors
from tests.conftest import ROOT

EXAMPLE = ROOT / "packaging" / "agent.toml"
HOOK = "[hook]\n"


def errors_of(text: str) -> dict[str, str]:
    """Field to reason of every error in a document that is wrong."""
    with pytest.raises(ConfigErrors) as caught:
        read_config(text)
    return {error.field: error.reason for error in caught.value.errors}


def sections() -> list[tuple[str, Any]]:
    """Name and settings class of every section."""
    hints = get_type_hints(Config)
    return [(f.name, _settings(hints[f.name])) for f in fields(Config)]


def _settings(hint: Any) -> Any:
    return next(t for t in (hint, *get_args(hint)) if is_dataclass(t))


def uncommented(text: str) -> str:
    """The example with every key in use: explanations are sentences, commented keys look like keys."""
    return re.sub(r"^# (?=\[[a-z_]+\]$|[a-z0-9_]+ = )", "", text, flags=re.MULTILINE)


def test_the_example_is_the_default_configuration_with_the_hook_and_records() -> None:
    example, default = load_config(EXAMPLE), read_config("[hook]\n[records]\n")
    for name, _ in sections():
        assert getattr(example, name) == getattr(default, name), name


def section_of(text: str, name: str) -> str:
    """What stands between the head of this section and the next."""
    behind = text.split(f"[{name}]\n", 1)[1]
    return re.split(r"^(?:# )?\[[a-z_]+\]$", behind, maxsplit=1, flags=re.MULTILINE)[0]


def test_every_key_of_every_section_is_in_the_example() -> None:
    text = EXAMPLE.read_text()
    for name, settings in sections():
        assert re.search(rf"^(# )?\[{name}\]$", text, re.MULTILINE), name
        for field in fields(settings):
            assert re.search(rf"^(# )?{field.name} = ", section_of(text, name), re.MULTILINE), f"{name}.{field.name}"


def test_every_section_of_the_example_is_right_when_it_is_taken_into_use() -> None:
    config = read_config(uncommented(EXAMPLE.read_text()))
    assert all(getattr(config, name) is not None for name, _ in sections())


def test_defaults_that_the_example_shows_commented_out_are_the_defaults() -> None:
    for name, settings in sections():
        hidden = re.findall(r"^# ([a-z_]+) = ([0-9.]+)$", section_of(EXAMPLE.read_text(), name), re.MULTILINE)
        defaults = {field.name: field.default for field in fields(settings)}
        for key, value in hidden:
            assert defaults[key] == float(value), f"{name}.{key}"


def test_a_file_without_a_way_in_is_refused() -> None:
    assert "redirect" in errors_of("")["hook"]


def test_a_redirect_server_that_listens_nowhere_is_refused() -> None:
    assert "listens nowhere" in errors_of("[redirect]\n")["redirect.udp"]


def test_all_errors_come_at_once_each_with_its_key() -> None:
    found = errors_of(
        '[hook]\nsockett = "/run/x"\n[metrics]\nlisten = "localhost:9810"\n[log]\nlevel = "loud"\n'
        "refusals_per_second = 5000\n[shutdown]\ngrace = true\n[polici]\n"
    )
    assert found["hook.sockett"] == 'unknown key; did you mean "socket"?'
    assert "127.0.0.1:9810" in found["metrics.listen"]
    assert "known: debug, info, warning, error" in found["log.level"]
    assert found["log.refusals_per_second"] == "must be from 0 to 1000"
    assert found["shutdown.grace"] == "must be a number, not true or false"
    assert 'did you mean "policy"?' in found["polici"]


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("hook = 3", "hook", "must be a table, not a whole number"),
        ("[[hook]]", "hook", "there is only one: write [hook]"),
        (HOOK + "group = 12", "hook.group", "must be a string, not a whole number: put it in quotes"),
        (HOOK + "max_in_flight = 0", "hook.max_in_flight", "must be from 1 to 65536"),
        (HOOK + "max_in_flight = 1.5", "hook.max_in_flight", "must be a whole number, not a number with a fraction"),
        (HOOK + "max_in_flight = true", "hook.max_in_flight", "must be a whole number, not true or false"),
        (HOOK + 'allowed_clients = "CN:a"', "hook.allowed_clients", "must be an array, not a string: put it in [ ]"),
        (HOOK + "allowed_clients = [3]", "hook.allowed_clients[0]", "must be a string, not a whole number"),
        (HOOK + '[policy]\nfile = ""', "policy.file", "must be the name of a file"),
        (HOOK + "[shutdown]\ngrace = inf", "shutdown.grace", "must be a finite number"),
        (HOOK + "[shutdown]\ngrace = 1e309", "shutdown.grace", "must be a finite number"),
        (HOOK + "[shutdown]\ngrace = -1", "shutdown.grace", "must be from 0 to 300"),
        (HOOK + '[admin]\nsocket = "/run/' + "x" * 90 + '"', "admin.socket", "is longer than 80 bytes"),
        (HOOK + "[records]\nmax_bytes = 5", "records.max_bytes", "must hold at least two segments"),
        ("[hook]\n[log\n", "line 2, column 5", ""),
    ],
)
def test_every_kind_of_mistake_names_its_key(text: str, field: str, reason: str) -> None:
    found = errors_of(text)
    assert list(found) == [field]
    assert reason in found[field]


@pytest.mark.parametrize("listen", ["", "9810", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:9810", "[::1]:-1"])
def test_an_address_is_numbers_and_a_port(listen: str) -> None:
    text = f'[hook]\n[metrics]\nlisten = "{listen}"'
    if listen:
        assert list(errors_of(text)) == ["metrics.listen"]
    else:
        assert read_config(text).metrics.listen == ""


def test_a_whole_number_is_a_float_and_nothing_else_is_converted() -> None:
    assert read_config("[hook]\n[shutdown]\ngrace = 3").shutdown.grace == 3.0


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "absent.toml", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert (caught.value.field, caught.value.reason) == (str(path), reason)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    for content, reason in (
        (b"\xff\xfe", "is not UTF-8 (byte 0)"),
        (b"#" * (MAX_CONFIG_BYTES + 1), "larger than 1 MiB"),
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=re.escape(reason)):
            load_config(path)
