"""INVITEs with keys and certificates from another project: each is accepted or rejected as its authors say."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main

# What we call each rejection. The authors' SIP codes follow a French procedure; where RFC 8224 and ours differ from
# it, the class differs too: a ppt that nobody knows is no PASSporT at all (428), a bad parameter is not the
# certificate's fault (438).
CLASSES = {
    "04.verify-200": None,
    "05.verify-200-anonymous": None,
    "06.verify-error-400-wrong-from": "mismatch",
    "07.verify-error-400-wrong-from-no-kill-call": "mismatch",
    "08.A.verify-error-403-wrong-date-past": "stale",
    "08.B.verify-error-403-wrong-date-future": "stale",
    "09.verify-error-403-wrong-iat": "stale",
    "10.verify-error-428-no-identity": "missing",
    "11.verify-error-436-no-info": "info",
    "12.verify-error-436-token-no-4-params": "invalid",
    "13.verify-error-436-x5u-diff-info": "info",
    "14.verify-error-437-no-alg": "invalid",
    "15.verify-error-437-wrong-alg": "invalid",
    "16.verify-error-437-wrong-header-alg": "invalid",
    "17.verify-error-437-wrong-header-typ": "invalid",
    "18.verify-error-437-cert-expired": "credential",
    "19.verify-error-437-cert-in-future": "credential",
    "20.verify-error-438-identity-more-4-params": "invalid",
    "21.verify-error-438-no-ppt": "invalid",
    "22.verify-error-438-wrong-ppt": "missing",
    "23.verify-error-438-wrong-header-ppt": "invalid",
    "24.verify-error-438-wrong-attest": "invalid",
    "25.verify-error-438-orig-diff-from": "mismatch",
    "26.verify-error-438-dest-diff-to": "mismatch",
}
# RFC 8224 alone makes alg and ppt optional and lets other parameters stand; the authors say so themselves.
ACCEPTED_BY_RFC_8224 = {
    "14.verify-error-437-no-alg",
    "20.verify-error-438-identity-more-4-params",
    "21.verify-error-438-no-ppt",
    "08.A.verify-error-403-wrong-date-past",
    "08.B.verify-error-403-wrong-date-future",
}


def cases(shared_data: Path) -> dict[str, dict[str, Any]]:
    text = (shared_data / "stir" / "opensips-sipssert" / "cases.json").read_text(encoding="utf-8")
    return {case["id"].removeprefix("opensips/"): case for case in json.loads(text)["cases"]}


def test_no_case_is_left_out(shared_data: Path) -> None:
    assert set(cases(shared_data)) == set(CLASSES)


def verify(shared_data: Path, case: dict[str, Any], *options: str) -> int:
    folder = shared_data / "stir" / "opensips-sipssert"
    served = [f"--x5u={url}={folder / file}" for url, file in case["x5u_serves"].items()]
    return main(
        [
            "identity",
            "verify",
            str(folder / case["message"]),
            f"--now={case['now']}",
            f"--freshness={case['freshness_seconds']}",
            f"--trust-anchor={folder / case['trust_anchor']}",
            *served,
            *options,
        ]
    )


@pytest.mark.parametrize("name", CLASSES)
def test_call_is_accepted_or_rejected_as_expected(
    shared_data: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case = cases(shared_data)[name]
    code = verify(shared_data, case)
    shown = json.loads(capsys.readouterr().out)
    assert shown["result"] == case["expected_class"]
    assert code == (0 if case["expected_class"] == "accept" else 1)
    assert shown["class"] == CLASSES[name]
    if CLASSES[name] in {"stale", "info", "credential"}:
        assert shown["code"] == case["upstream_status"]
    if code == 0:
        assert (shown["attestation"], shown["spc"], shown["origid"]) == ("A", "1001", "toto")


@pytest.mark.parametrize("name", CLASSES)
def test_lenient_accepts_what_rfc_8224_allows_and_nothing_else(
    shared_data: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    case = cases(shared_data)[name]
    accepted = case["expected_class"] == "accept" or name in ACCEPTED_BY_RFC_8224
    assert verify(shared_data, case, "--lenient") == (0 if accepted else 1), capsys.readouterr().out
