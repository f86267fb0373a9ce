"""The sections [identity] and [signing] compile whole or not at all, and every error names its field."""

import pytest

from agent.identity.model import Failure, Verstat
from agent.model import ConfigErrors
from agent.policy.compile import compile_policy
from agent.policy.document import from_toml, to_toml
from agent.policy.effective import with_defaults
from agent.policy.policy import IdentitySpec, Mode, SigningSpec

TRUNKS = """
[[trunks]]
id = "peer"
sources = ["192.0.2.1"]
default_country = "none"

[[trunks]]
id = "pbx"
sources = ["192.0.2.2"]
customer = "acme"

[[customers]]
id = "acme"
numbers = ["2015550100-2015550119"]
"""
ORIGID = "8F4C1F5E-3f0a-4a57-9b0e-0c5f8d1a2b3c"


def identity(text: str) -> IdentitySpec:
    spec = compile_policy(from_toml(TRUNKS + text), {}).identity
    assert spec is not None
    return spec


def signing(text: str) -> SigningSpec:
    spec = compile_policy(from_toml(TRUNKS + text), {}).signing
    assert spec is not None
    return spec


def errors_of(text: str) -> dict[str, str]:
    with pytest.raises(ConfigErrors) as caught:
        compile_policy(from_toml(TRUNKS + text), {})
    return {error.field: error.reason for error in caught.value.errors}


def test_by_default_every_failure_passes_and_is_marked() -> None:
    spec = identity("[identity]")
    assert (spec.mode, spec.freshness, spec.wait) == (Mode.ENFORCE, 60.0, 1.0)
    assert (spec.lenient, spec.mark, spec.reason) == (False, True, False)
    assert {failure: handling.answer for failure, handling in spec.handling.items()} == dict.fromkeys(Failure)
    told = {failure: handling.verstat for failure, handling in spec.handling.items()}
    assert {failure for failure, verstat in told.items() if verstat is Verstat.NONE} == {
        Failure.MISSING,
        Failure.UNREACHABLE,
        Failure.REPLAYED,
    }
    assert Verstat.PASSED not in told.values()


def test_rows_change_their_own_failure_only() -> None:
    spec = identity('[[identity.failures]]\nfailure = "unreachable"\nverstat = "failed"\naction = "refuse"')
    changed = spec.handling[Failure.UNREACHABLE]
    assert changed.verstat is Verstat.FAILED
    assert str(changed.answer) == "436 Bad Identity Info"
    assert spec.handling[Failure.INFO].answer is None


def test_in_shadow_mode_nobody_is_told_anything() -> None:
    spec = identity('[identity]\nmode = "shadow"\nmark = true\nreason = true')
    assert (spec.mode, spec.mark, spec.reason) == (Mode.SHADOW, False, False)
    assert identity("[identity]\nreason = true").reason
    assert not identity("[identity]\nmark = false").mark


@pytest.mark.parametrize("section", ["identity", "signing"])
def test_a_section_that_is_off_or_absent_is_not_compiled(section: str) -> None:
    for text in ("", f'[{section}]\nmode = "off"'):
        policy = compile_policy(from_toml(TRUNKS + text), {})
        assert (policy.identity, policy.signing) == (None, None)


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ('[identity]\nrequired_trunks = ["x"]', "identity.required_trunks[0]", "not among the trunks"),
        ("[identity]\nfreshness_seconds = 0.5", "identity.freshness_seconds", "from 1 to 600 seconds"),
        ("[identity]\nfreshness_seconds = 601", "identity.freshness_seconds", "from 1 to 600 seconds"),
        ("[identity]\nwait_seconds = 5.1", "identity.wait_seconds", "from 0.05 to 5 seconds"),
        ("[identity]\nwait_seconds = -1", "identity.wait_seconds", "from 0.05 to 5 seconds"),
        ('[[identity.failures]]\naction = "refuse"', "identity.failures[0].failure", "say which: missing, stale"),
        (
            '[[identity.failures]]\nfailure = "info"\n[[identity.failures]]\nfailure = "info"',
            "identity.failures[1].failure",
            "info has a row already",
        ),
        (
            '[[identity.failures]]\nfailure = "info"\nanswer = { code = 436 }',
            "identity.failures[0].answer",
            'goes with action = "refuse"',
        ),
        (
            '[[identity.failures]]\nfailure = "info"\naction = "refuse"\nanswer = { code = 603 }',
            "identity.failures[0].answer.code",
            "603 is no answer to a identity refusal; lawful: 428, 403, 436, 437, 438",
        ),
        (
            '[[identity.failures]]\nfailure = "info"\naction = "refuse"\nanswer = { retry_after_seconds = 5 }',
            "identity.failures[0].answer.retry_after_seconds",
            "goes with 503 only",
        ),
        ('[identity.allow]\ncalling = ["x"]', "identity.allow.calling[0]", "x"),
        ('[signing]\ngateway_trunks = ["x"]', "signing.gateway_trunks[0]", "not among the trunks"),
        (
            '[signing]\ngateway_trunks = ["peer"]\nexempt_trunks = ["pbx", "peer"]',
            "signing.exempt_trunks[1]",
            "is among the gateway_trunks",
        ),
        ('[[signing.origins]]\ntrunk = "peer"', "signing.origins[0].origid", "is no UUID"),
        (f'[[signing.origins]]\ntrunk = "x"\norigid = "{ORIGID}"', "signing.origins[0].trunk", "not among the trunks"),
        (
            f'[[signing.origins]]\ntrunk = "peer"\norigid = "{ORIGID}"\n' * 2,
            "signing.origins[1].trunk",
            "has an origid already",
        ),
        ('[emergency]\npsap_trunks = ["x"]', "emergency.psap_trunks[0]", "not among the trunks"),
    ],
)
def test_what_is_wrong_names_its_field(text: str, field: str, reason: str) -> None:
    errors = errors_of(text)
    assert list(errors) == [field]
    assert reason in errors[field]


def test_what_is_off_is_checked_all_the_same() -> None:
    assert list(
        errors_of('[identity]\nmode = "off"\nwait_seconds = 9\n[signing]\nmode = "off"\nexempt_trunks = ["x"]')
    ) == [
        "identity.wait_seconds",
        "signing.exempt_trunks[0]",
    ]


def test_the_signing_rule_knows_what_it_attests_by() -> None:
    spec = signing(
        '[emergency]\nnumbers = ["999"]\n[signing]\ngateway_trunks = ["unknown"]\nexempt_trunks = ["peer"]\n'
        f'divert = true\n[[signing.origins]]\ntrunk = "pbx"\norigid = "{ORIGID}"'
    )
    assert (spec.mode, spec.divert) == (Mode.ENFORCE, True)
    assert (spec.gateway_trunks, spec.exempt_trunks) == (frozenset({"unknown"}), frozenset({"peer"}))
    assert spec.origids == {"pbx": ORIGID.lower()}
    assert spec.countries == {"peer": "", "pbx": "1"}
    assert list(spec.inventory) == ["acme"]
    assert "999" in spec.emergency


def test_only_verification_that_is_enforced_takes_belief_from_marks_of_emergency_services() -> None:
    def believed(text: str) -> frozenset[str] | None:
        return compile_policy(from_toml(TRUNKS + '[emergency]\npsap_trunks = ["peer"]\n' + text), {}).emergency.believed

    assert believed("") is None
    assert believed('[identity]\nmode = "shadow"') is None
    assert believed('[identity]\nmode = "off"') is None
    assert believed("[identity]") == frozenset({"peer"})


def test_the_effective_policy_has_every_row_and_compiles_to_the_same() -> None:
    written = from_toml(
        TRUNKS + '[identity]\nmode = "shadow"\nreason = true\n'
        '[[identity.failures]]\nfailure = "stale"\naction = "refuse"\n[signing]\ndivert = true'
    )
    policy = compile_policy(written, {})
    full = with_defaults(written, policy)
    assert len(full.identity.failures) == len(Failure)
    assert (full.identity.freshness_seconds, full.identity.wait_seconds, full.identity.mark) == (60.0, 1.0, True)
    again = compile_policy(from_toml(to_toml(full)), {})
    assert again.identity is not None
    assert policy.identity is not None
    assert again.identity.handling == policy.identity.handling
    assert with_defaults(full, again) == full
