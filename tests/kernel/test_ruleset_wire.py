"""What is mended in pyroute2, and what a rule is made of, without a kernel."""

import struct
from typing import Any

import pytest
from pyroute2.config.version import __version__
from pyroute2.netlink.nfnetlink import nftsocket as nf

from agent.kernel import pyroute2_patches
from agent.kernel.ruleset import Begins, Chain, Element, Field, Kind, Limit, NamedSet, Remember, Rule, Table, ToQueue
from agent.kernel.ruleset_wire import ELEMENTS_AT_ONCE, Via, add_messages, table_messages


def expressions_of(rule: Rule, via: Via = "nft") -> list[Any]:
    """The rule, encoded and decoded by pyroute2."""
    data = table_messages(Table("t", True, (), (Chain("c", (rule,)),)), via)[-1].data
    message = nf.nft_rule_msg(data)
    message.decode()
    return list(message.get_attr("NFTA_RULE_EXPRESSIONS"))


def test_the_patches_are_for_the_version_that_is_locked() -> None:
    assert __version__ == pyroute2_patches.APPLIES_TO


def test_mending_twice_changes_nothing() -> None:
    before = nf.nft_contains_expr.nft_expr.nft_dynset.nla_map
    pyroute2_patches.apply()
    assert nf.nft_contains_expr.nft_expr.nft_dynset.nla_map == before


def test_a_dynamic_set_can_have_two_expressions_for_each_element() -> None:
    (*_, dynset) = expressions_of(Rule((Remember(Field.SOURCE4, "s", Limit(10, 20)),)))
    inner = dynset.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_DYNSET_EXPRESSIONS")
    assert [one.get_attr("NFTA_EXPR_NAME") for one in inner] == ["limit", "counter"]
    limit = inner[0].get_attr("NFTA_EXPR_DATA")
    assert (limit.get_attr("NFTA_LIMIT_RATE"), limit.get_attr("NFTA_LIMIT_BURST")) == (10, 20)


def test_a_queue_has_its_flags() -> None:
    (queue,) = expressions_of(Rule((ToQueue(5),)))
    data = queue.get_attr("NFTA_EXPR_DATA")
    assert data.get_attr("NFTA_QUEUE_NUM") == 5
    assert data.get_attr("NFTA_QUEUE_FLAGS") == {"NFT_QUEUE_FLAG_BYPASS"}


def test_a_target_has_its_bytes() -> None:
    message = table_messages(Table("t", True, (), (Chain("c", (Rule((ToQueue(5),)),)),)), "xt")[-1].data
    assert struct.pack("=HHHxx", 5, 1, 1) in message
    assert b"NFQUEUE\0" in message


def test_letters_are_compared_without_their_case_and_nothing_else_is() -> None:
    _, masked, compared = expressions_of(Rule((Begins(b"sip:9Z"),)))
    mask = masked.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_BITWISE_MASK").get_attr("NFTA_DATA_VALUE")
    value = compared.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_CMP_DATA").get_attr("NFTA_DATA_VALUE")
    assert _bytes(mask) == b"\xdf\xdf\xdf\xff\xff\xdf"
    assert _bytes(value) == b"SIP:9Z"
    assert len(expressions_of(Rule((Begins(b"911"),)))) == 2  # nothing to mask


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else bytes.fromhex(value.replace(":", ""))


@pytest.mark.parametrize("count", [0, 1, ELEMENTS_AT_ONCE, ELEMENTS_AT_ONCE + 1, 3 * ELEMENTS_AT_ONCE])
def test_elements_are_cut_into_messages_that_the_kernel_can_take(count: int) -> None:
    one = NamedSet("s", Kind.IPV6, timeout=0)
    elements = [Element(n.to_bytes(16, "big"), seconds=5.0) for n in range(count)]
    messages = add_messages("t", one, elements)
    assert len(messages) == -(-count // ELEMENTS_AT_ONCE)
    assert all(len(message.data) < 0xFFFF for message in messages)


def test_every_message_says_what_it_is_for() -> None:
    table = Table(
        "t", True, (NamedSet("s", Kind.PORT, (Element(b"\0\1"),)),), (Chain("c", (Rule((ToQueue(1),), "x"),)),)
    )
    said = [message.what for message in table_messages(table)]
    assert said == ["table t", "set s", "elements of set s", "chain c", "rule 1 of chain c (x)"]
