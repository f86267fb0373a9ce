"""Emergency calls pass in every combination of all other rules refusing, and nothing else passes as one."""

from itertools import combinations

import pytest

from agent.identity.model import NOT_SIGNED
from agent.model import ALLOW, Category
from agent.screening import Screening
from sbcedge.policy.v1 import policy_pb2 as pb
from tests.fakes.calls import CALLED, PEER, invite, policy, screen

NOW = 1_800_000_000.0
PSAP = "+13035550100"

# Each form of an emergency call: Request-URI, To (None: the same), caller, further header rows.
FORMS = {
    "urn": ("urn:service:sos", None, None, ()),
    "urn, sub-service": ("urn:service:sos.police", None, None, ()),
    "urn, any case": ("URN:Service:SOS", None, None, ()),
    "911": ("sip:911@sbc.example.net", None, None, ()),
    "911, user=phone": ("sip:911@sbc.example.net;user=phone", None, None, ()),
    "+1911": ("sip:+1911@sbc.example.net;user=phone", None, None, ()),
    "1911": ("sip:1911@sbc.example.net", None, None, ()),
    "tel": ("tel:911;phone-context=+1", None, None, ()),
    "tel, domain context": ("tel:911;phone-context=example.net", None, None, ()),
    "sips": ("sips:911@sbc.example.net", None, None, ()),
    "escaped": ("sip:%39%31%31@sbc.example.net", None, None, ()),
    "112": ("sip:112@sbc.example.net", None, None, ()),
    "test code 933": ("sip:933@sbc.example.net", None, None, ()),
    "To is 911, routed by urn": ("urn:example:psap-route", "sip:911@sbc.example.net", None, ()),
    "To is urn, routed by host": ("sip:esrp.example.net;lr", "urn:service:sos", None, ()),
    "esnet": (CALLED, None, None, ("Resource-Priority: esnet.1",)),
    "esnet among others": (CALLED, None, None, ("Resource-Priority: dsn.flash, esnet.0",)),
    "psap-callback": (CALLED, None, None, ("Priority: psap-callback",)),
    "configured code": ("sip:999@sbc.example.net", None, None, ()),
    "from a PSAP": (CALLED, None, f"sip:{PSAP}@a.example.net;user=phone", ()),
}

NO_EMERGENCY = {
    "a number that contains 911": ("sip:+13039115501@sbc.example.net", None),
    "a number that begins with 911": ("sip:+19115550123@sbc.example.net", None),
    "9911...": ("sip:99113035550199@sbc.example.net", None),
    "988": ("sip:988@sbc.example.net", None),
    "another urn": ("urn:service:sosx", None),
    "counselling": ("urn:service:counseling", None),
    "To is 911 but the call goes to a number": (CALLED, "sip:911@sbc.example.net"),
}

SECTIONS = ("provider_block", "do_not_originate", "caller_id_authorisation", "limits", "identity", "subscriber_lists")


def refusing(sections: tuple[str, ...]) -> pb.Policy:
    """A policy whose given sections refuse every call of the test's caller."""
    whole = pb.Policy(
        provider_block=pb.ProviderBlockRule(blocks=[pb.ProviderBlock(trunk="peer")]),
        do_not_originate=pb.DoNotOriginateRule(),
        caller_id_authorisation=pb.CallerIdRule(warn_first=-1, suspend_seconds=3600),
        limits=[
            pb.Limit(name=f"limit-{scope}", scope=scope, rate=1, window_seconds=3600, burst=1, sessions=1)
            for scope in (pb.SCOPE_GLOBAL, pb.SCOPE_TRUNK, pb.SCOPE_CUSTOMER, pb.SCOPE_CALLING, pb.SCOPE_CALLED)
        ],
        identity=pb.IdentityRule(required_trunks=["peer"]),
        subscriber_lists=pb.SubscriberListRule(
            lists=[pb.SubscriberList(called="+13035550199", unwanted=["1201*", "anonymous"])]
        ),
    )
    message = pb.Policy(
        trunks=[pb.Trunk(id="peer", sources=[PEER], customer="acme")],
        customers=[pb.Customer(id="acme", numbers=["+12015550100"])],
        emergency=pb.EmergencyRule(numbers=["999"], psap_calling=[PSAP], psap_trunks=["peer"]),
    )
    for section in sections:
        if section == "limits":
            message.limits.extend(whole.limits)
        else:
            getattr(message, section).CopyFrom(getattr(whole, section))
    return message


COMBINATIONS = [c for n in range(len(SECTIONS) + 1) for c in combinations(SECTIONS, n)]
# A caller whom every rule refuses: NXX 211 is no NANP number, and the customer does not own it.
SPOOFER = "sip:+12012115555@a.example.net;user=phone"


def exhausted(sections: tuple[str, ...]) -> Screening:
    """A screening with every limit spent, the customer suspended, and the sessions taken."""
    screening = Screening(policy(refusing(sections)))
    screen(screening, invite(calling="sip:+12015550100@a.example.net"), NOW)
    for _ in range(3):
        decision = screen(screening, invite(calling=SPOOFER), NOW, identity=NOT_SIGNED)
        assert (decision.verdict.action is not ALLOW) == bool(set(sections))
    return screening


@pytest.mark.parametrize("sections", COMBINATIONS, ids=lambda c: "+".join(c) or "none")
def test_an_emergency_call_passes_whatever_else_refuses(sections: tuple[str, ...]) -> None:
    screening = exhausted(sections)
    for name, (called, to, calling, headers) in FORMS.items():
        for _ in range(3):
            raw = invite(called, calling or SPOOFER, to=to, headers=headers)
            verdict = screen(screening, raw, NOW, identity=NOT_SIGNED).verdict
            assert verdict.action is ALLOW, name
            assert verdict.category is Category.EMERGENCY, name
            assert verdict.why, name
    assert screening.failures == 0


@pytest.mark.parametrize("name", NO_EMERGENCY)
def test_what_is_no_emergency_call_is_judged_like_any_other(name: str) -> None:
    called, to = NO_EMERGENCY[name]
    decision = screen(exhausted(("provider_block",)), invite(called, to=to), NOW)
    assert decision.verdict.category is Category.PROVIDER_BLOCK


def test_calls_from_the_address_of_a_psap_pass() -> None:
    message = refusing(SECTIONS)
    message.emergency.psap_sources.append(f"{PEER}/32")
    screening = Screening(policy(message))
    for _ in range(5):
        assert screen(screening, invite(calling=SPOOFER), NOW, identity=NOT_SIGNED).verdict.action is ALLOW
