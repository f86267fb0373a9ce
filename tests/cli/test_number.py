"""`sbc-agent number`: how a number is read, and why."""

import json

import pytest

from agent.cli.main import main


def described(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    assert main(["number", "--json", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    return found


def test_number_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert described(capsys, "sip:+1201555%30123;npdi@gw") == [
        {
            "input": "sip:+1201555%30123;npdi@gw",
            "kind": "NANP",
            "digits": "12015550123",
            "national": "2015550123",
            "plan": {
                "valid": True,
                "reason": "555-01XX is set aside for fiction",
                "service": "geographic",
                "area": "United States",
                "country": "US",
                "easily_recognisable": False,
            },
            "steps": [
                "scheme sip, user part +1201555%30123",
                "cut off: ;npdi",
                "without escapes and visual separators: +12015550123",
                "a + stands before the country code",
                "a +1 number of the numbering plan",
                "NANP: 12015550123 (555-01XX is set aside for fiction)",
            ],
        }
    ]


def test_every_kind_has_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [
        "2012340123",
        "2110550123",
        "911",
        "*67",
        "+442079460123",
        "442079460123",
        "alice",
        "anonymous@x",
        "sip:a.example",
        "",
    ]
    kinds = [entry["kind"] for entry in described(capsys, *texts)]
    assert kinds == [
        "NANP",
        "NANP_INVALID",
        "SHORT",
        "SHORT",
        "FOREIGN",
        "AMBIGUOUS",
        "NOT_A_NUMBER",
        "ANONYMOUS",
        "ABSENT",
        "ABSENT",
    ]


def test_country_decides_what_bare_digits_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert described(capsys, "02079460123", "--country", "44")[0]["digits"] == "442079460123"
    assert described(capsys, "2015550123", "--country", "none")[0]["kind"] == "AMBIGUOUS"


def test_plus_one_without_ten_digits_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    plan = described(capsys, "+1201555")[0]["plan"]
    assert isinstance(plan, dict)
    assert (plan["valid"], plan["reason"]) == (False, "not ten digits")


def test_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["number", "2110550123", "911"]) == 0
    out = capsys.readouterr().out
    assert "NPA 211 is an N11 code" in out
    assert "not valid" in out
    assert "3 digits: a short code" in out


def test_characters_outside_ascii_are_no_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert [entry["kind"] for entry in described(capsys, "٢٠١٥٥٥٠١٢٣", "\udcff2015550123")] == ["NOT_A_NUMBER"] * 2


@pytest.mark.parametrize("arguments", [[], ["--country", "0", "911"], ["--country", "usa", "911"], ["--nothing"]])
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["number", *arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err


def test_help_has_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["number", "--help"])
    out = capsys.readouterr().out
    assert "examples:" in out
    assert "exit codes:" in out
