"""`sbc-agent policy`: check, show and init, as one uses them."""

import json
import re
import tomllib
from ipaddress import ip_network
from pathlib import Path

import pytest
from google.protobuf.message import Message

from agent.cli.main import main
from agent.policy.document import from_toml
from sbcedge.policy.v1 import policy_pb2 as pb

GOOD = """
generation = 7
name = "spring"

[[trunks]]
id = "peer"
sources = ["198.51.100.0/24"]

[do_not_originate]
mode = "shadow"

[provider_block]

[subscriber_lists]
mode = "off"

[[limits]]
name = "cps"
scope = "trunk"
rate = 1

[[limits]]
name = "tried"
mode = "off"
scope = "trunk"
rate = 1
"""

AUTHENTICATION = """
[identity]
required_trunks = ["peer"]
wait_seconds = 0.5
failures = [{ failure = "invalid", action = "refuse" }, { failure = "mismatch", action = "refuse" }]

[signing]
mode = "shadow"
gateway_trunks = ["peer"]
"""

BAD = """
generation = -1
[[limits]]
name = "cps"
rat = 30
scope = "trunk"
"""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    code = main(["policy", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_good_policy_is_ok_and_summed_up(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "check", written)
    assert (code, err) == (0, "")
    assert f'{written}: ok. Generation 7 "spring", 1 trunk, 0 customers' in out
    assert "by trunk: over 1 attempt in 1 s, burst 1" in out
    assert "503 Service Unavailable" in out


def test_the_summary_tells_off_from_absent_and_from_idle(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", written, "--json")
    found = json.loads(out)
    assert code == 0
    assert {key: found[key] for key in ("ok", "generation", "name", "trunks", "customers", "limits")} == {
        "ok": True,
        "generation": 7,
        "name": "spring",
        "trunks": 1,
        "customers": 0,
        "limits": 2,
    }
    assert {rule["rule"]: (rule["mode"], rule["decides"]) for rule in found["rules"]} == {
        "emergency": ("always", "passes: calls to 112, 911, 933"),
        "provider-block": ("idle", "no blocks"),
        "do-not-originate": ("shadow", "numbers that the plan does not allow"),
        "caller-id-authorisation": ("off", "not in the file"),
        "cps": ("enforce", "by trunk: over 1 attempt in 1 s, burst 1"),
        "tried": ("off", ""),
        "identity": ("off", "not in the file"),
        "subscriber-list": ("off", ""),
        "signing": ("off", "not in the file"),
    }


def test_verification_and_signing_are_summed_up(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written.write_text(GOOD + AUTHENTICATION, encoding="utf-8")
    code, out, _ = run(capsys, "check", written, "--json")
    rows = {rule["rule"]: rule for rule in json.loads(out)["rules"]}
    assert code == 0
    assert rows["identity"]["mode"] == "enforce"
    assert rows["identity"]["decides"] == (
        "refuses: invalid, mismatch; missing ones on peer; tells: verstat; a call waits 0.5 s at most for a certificate"
    )
    assert rows["identity"]["answer"] == "438 Invalid Identity Header"
    assert rows["signing"]["mode"] == "shadow"
    assert rows["signing"]["decides"] == (
        "signs: customers' calls, A with a number of their own, else B; C without Identity from peer"
    )
    assert rows["emergency"]["decides"].endswith("marked ones if vouched for")


def test_a_shown_policy_says_what_becomes_of_every_failure(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written.write_text(GOOD + AUTHENTICATION, encoding="utf-8")
    code, out, _ = run(capsys, "show", written, "--toml")
    shown = tomllib.loads(out)["identity"]
    assert code == 0
    assert [row["failure"] for row in shown["failures"]] == [
        "missing", "stale", "info", "unreachable", "credential", "invalid", "mismatch", "replayed"
    ]  # fmt: skip
    assert from_toml(out) == from_toml(from_and_back(capsys, written, out))


def from_and_back(capsys: pytest.CaptureFixture[str], path: Path, text: str) -> str:
    """What is shown of what was shown."""
    path.write_text(text, encoding="utf-8")
    return run(capsys, "show", path, "--toml")[1]


@pytest.mark.parametrize("action", ["check", "show"])
def test_every_error_is_named_with_its_field(action: str, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written.write_text(BAD, encoding="utf-8")
    code, out, err = run(capsys, action, written)
    assert (code, out) == (1, "")
    assert f"{written}: generation: must be from 0" in err
    assert f'{written}: limits[0].rat: unknown key; did you mean "rate"?' in err
    assert "2 errors" in err


def test_errors_as_json(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written.write_text(BAD, encoding="utf-8")
    code, out, err = run(capsys, "check", written, "--json")
    found = json.loads(out)
    assert (code, err, found["ok"]) == (1, "", False)
    assert [error["field"] for error in found["errors"]] == ["generation", "limits[0].rat"]


def test_what_does_not_compile_is_an_error_too(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written.write_text(GOOD + "[limits.answer]\ncode = 603\n[[limits]]\n", encoding="utf-8")
    code, _, err = run(capsys, "check", written)
    assert code == 1
    assert "limits[1].answer.code" in err
    assert "limits[2].name" in err


def test_a_list_that_is_not_there_is_named(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written.write_text('[do_not_originate]\nlists = ["missing.list"]\n', encoding="utf-8")
    code, _, err = run(capsys, "check", written)
    assert code == 1
    assert "do_not_originate.lists[0]" in err
    assert "missing.list" in err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'name = "\xff"', "is not UTF-8"),
        (b"name = \n", "line 1, column 8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_once(
    content: bytes | None, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.toml"
    if content is not None:
        path.write_bytes(content)
    code, _, err = run(capsys, "check", path)
    assert code == 1
    assert complaint in err
    assert err.count(str(path)) == 1


def test_show_fills_in_the_defaults(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, as_json, _ = run(capsys, "show", written, "--json")
    _, as_toml, _ = run(capsys, "show", written, "--toml")
    limit = json.loads(as_json)["limits"][0]
    assert (limit["mode"], limit["window_seconds"], limit["warn_at"]) == ("MODE_ENFORCE", 1.0, 0.8)
    policy = from_toml(as_toml)
    assert policy.trunks[0].upstream == "peer"
    assert policy.limits[0].answer == pb.AnswerSpec(code=503, phrase="Service Unavailable")
    assert policy.limits[0].warn_at == 0.8


def test_show_prints_trunks_and_rules(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", written)
    assert code == 0
    assert "198.51.100.0/24" in out
    assert "not trusted" in out
    assert "caller-id-authorisation" in out


def test_init_writes_a_policy_that_is_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "init")[0] == 0
    code, out, err = run(capsys, "check", "policy.toml", "--json")
    assert (code, err) == (0, "")
    modes = {rule["rule"]: rule["mode"] for rule in json.loads(out)["rules"]}
    assert set(modes.values()) == {"always", "enforce", "shadow"}
    assert modes["do-not-originate"] == modes["caller-id-authorisation"] == "shadow"
    assert list(tmp_path.iterdir()) == [tmp_path / "policy.toml"]


def test_init_to_stdout(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "init", "-")
    assert code == 0
    assert tomllib.loads(out)["generation"] == 1
    assert list(tmp_path.iterdir()) == []


def test_init_replaces_nothing_unless_forced(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "init", written)
    assert code == 1
    assert "--force" in err
    assert written.read_text(encoding="utf-8") == GOOD
    assert run(capsys, "init", written, "--force")[0] == 0
    assert written.read_text(encoding="utf-8") != GOOD


def test_init_where_nothing_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "init", tmp_path / "missing" / "policy.toml")
    assert code == 1
    assert "cannot write" in err


def test_the_example_teaches_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever adds a field to the contract shows it in the example."""
    _, out, _ = run(capsys, "init", "-")
    written, kinds = from_toml(out), set()

    def teach(message: Message) -> None:
        kinds.add(message.DESCRIPTOR)
        for field in message.DESCRIPTOR.fields:
            assert re.search(rf"\b{field.name}\b", out), field.full_name
            if field.message_type is not None and field.message_type not in kinds:
                part = getattr(message, field.name)
                teach(part[0] if field.is_repeated else part)

    teach(written)
    assert len(kinds) > 10


def test_the_example_names_nobody_real(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "init", "-")
    documentation = [ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")]
    addresses = re.findall(r'"((?:[0-9]+\.){3}[0-9]+(?:/[0-9]+)?|[0-9a-f]*:[0-9a-f:]+(?:/[0-9]+)?)"', out)
    assert len(addresses) > 5
    for address in addresses:
        network = ip_network(address)
        assert any(network.version == d.version and network.subnet_of(d) for d in documentation), address  # type: ignore[arg-type]
    numbers = re.findall(r"\b[2-9][0-9]{9}\b", out)
    assert len(numbers) > 5
    assert all(re.fullmatch(r"[0-9]{3}55501[0-9]{2}", number) for number in numbers)


@pytest.mark.parametrize("arguments", [[], ["mend"], ["show", "--json", "--toml", "x"], ["check"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(capsys, *arguments)
    assert exit_.value.code == 2
