"""Certificates in use: 732 of production, each with what its collector and another lint said of it."""

import base64
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agent.identity.certificate import Certificate, Chain, read_certificate
from agent.identity.profile import Severity, lint
from agent.identity.trust import TrustStore

# Lint codes of the reports and ours for the same rule; "_ca" at the end of theirs is cut off.
SAME_RULE = {
    "e_atis_serial_number_size": "serial-number-size",
    "e_atis_signature_algorithm": "signature-algorithm",
    "e_atis_subject_public_key": "public-key",
    "e_atis_subject_dn": "subject",
    "e_atis_subject_cn": "common-name",
    "e_atis_subject_cn_spc": "common-name-code",
    "e_atis_subject_cn_root": "common-name-root",
    "e_atis_subject_o_required": "organization",
    "e_atis_subject_c_iso": "country",
    "e_atis_subject_c_us": "country-us",
    "e_us_cp_subject_sn_shall": "subject-serial-number",
    "e_atis_subject_key_identifier": "subject-key-id",
    "e_atis_subject_key_identifier_size": "subject-key-id-size",
    "e_atis_ext_authority_key_identifier": "authority-key-id",
    "e_atis_ext_basic_constraints": "basic-constraints",
    "e_atis_ext_key_usage": "key-usage",
    "e_atis_ext_key_usage_ee": "key-usage-signer",
    "e_atis_ext_certificate_policies": "policy",
    "e_shaken_certificate_policies_id": "policy-id",
    "e_atis_ext_crl_distribution": "crl-point",
    "e_atis_ext_crl_distribution_struct": "crl-issuer",
    "e_atis_ext_not_specified": "extensions",
    "e_atis_tn_auth_list": "tn-auth-list",
    "e_atis_tn_auth_list_spc_format": "code-format",
}
# Rules of RFC 5280 that the reports have and we do not: the first is about the encoding of a bit string that every
# reader takes, the others say of an absent key identifier again what the profile's own rule says.
NOT_OURS = {
    "e_incorrect_ku_encoding",
    "e_ext_authority_key_identifier_missing",
    "e_ext_authority_key_identifier_no_key_identifier",
    "w_ext_subject_key_identifier_missing_sub_cert",
}
MALFORMED = "e_atis_tn_auth_list"

Row = dict[str, Any]


@cache
def rows(folder: Path, name: str) -> list[tuple[Row, Certificate]]:
    lines = (folder / "stir" / "real-sti-certificates" / name).read_text().splitlines()
    return [(row, read_certificate(base64.b64decode(row["der_b64"]))) for row in map(json.loads, lines)]


def everyone(folder: Path) -> Iterator[tuple[Row, Certificate]]:
    yield from rows(folder, "ca.jsonl")
    yield from rows(folder, "leaf-dev.jsonl")


@pytest.fixture(scope="module")
def trusted(shared_data: Path) -> TrustStore:
    """The roots among them, and the authorities that their servers do not send."""
    authorities = rows(shared_data, "ca.jsonl")
    return TrustStore(
        tuple(read for row, read in authorities if row["self_signed"]),
        intermediates=tuple(read for row, read in authorities if not row["self_signed"]),
    )


def test_every_certificate_has_its_names_and_fingerprint(shared_data: Path) -> None:
    seen = 0
    for row, read in everyone(shared_data):
        assert (read.sha256, read.subject.text, read.issuer.text) == (row["sha256"], row["subject"], row["issuer"])
        assert read.is_authority is row["is_ca"]
        seen += 1
    assert seen == 732


def test_every_signer_has_its_service_provider_code(shared_data: Path) -> None:
    """Four TNAuthLists are none: two hold no [0], two are cut short. What they were meant to say we do not guess."""
    malformed = 0
    for row, read in rows(shared_data, "leaf-dev.jsonl"):
        if any(item["code"] == MALFORMED for item in row["lint"]):
            assert read.tn_auth_list is None
            assert read.fault.startswith("its TNAuthList ")
            malformed += 1
        else:
            assert read.tn_auth_list is not None
            assert read.tn_auth_list.codes == (row["spc"],)
    assert malformed == 4


def test_every_signer_is_trusted_if_its_root_is_there(shared_data: Path, trusted: TrustStore) -> None:
    good = 0
    for row, read in rows(shared_data, "leaf-dev.jsonl"):
        credential = trusted.assess(Chain((read,)), read.not_before)
        if row["root_sha256"] is None or read.fault:
            assert credential.fault
            continue
        assert credential.fault == ""
        assert credential.spc == row["spc"]
        assert credential.issuer == row["issuer"]
        assert credential.not_before <= read.not_before <= credential.not_after <= read.not_after
        good += 1
    assert good == 433


def test_authority_that_writes_null_parameters_is_read(shared_data: Path, trusted: TrustStore) -> None:
    """T-Mobile USA; the library alone would refuse every call that it signs."""
    signed = [read for row, read in rows(shared_data, "leaf-dev.jsonl") if "TMOBILE" in row["issuer"]]
    assert len(signed) == 3
    assert [trusted.assess(Chain((read,)), read.not_before).fault for read in signed] == ["", "", ""]


def test_lint_finds_what_the_reports_found(shared_data: Path) -> None:
    for row, read in everyone(shared_data):
        theirs = {item["code"].removesuffix("_ca") for item in row["lint"]} - NOT_OURS
        ours = {finding.code for finding in lint(read) if finding.severity is Severity.ERROR}
        assert ours == {SAME_RULE[code] for code in theirs}, row["sha256"]
