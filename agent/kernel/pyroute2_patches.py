"""What pyroute2 0.9.7 lacks for our messages, put right in its classes. Each part is meant to go upstream.

Applies to pyroute2 0.9.7, and looks before it changes anything, so that a version which has got something right is left
alone. tests/kernel/test_ruleset_wire.py encodes and decodes what is mended here. `apply` it before encoding.

- A dynset can have several stateful expressions per element (NFTA_DYNSET_EXPRESSIONS, with its flag; Linux 5.11).
- A dynset's expressions cannot be encoded: `rule_expr` is only set while decoding.
- Flags of 16 bits have no encoding, so a queue expression cannot have any.
- The data of an xt target (nft_compat) is known as text to print, and not as bytes to send.
- The flags of a set element are a dict where a sequence of names is expected.
- The base "inner header" of a payload expression has no name (Linux 5.16).
"""

from typing import Any, Final

from pyroute2.netlink.nfnetlink import nftsocket

APPLIES_TO: Final = "0.9.7"


def apply() -> None:
    """Mend what is still amiss. Calling it again changes nothing."""
    expression: Any = nftsocket.nft_contains_expr.nft_expr
    _dynset(expression)
    if "encode" not in vars(nftsocket.nft_flags_be16):
        nftsocket.nft_flags_be16.encode = nftsocket.nft_flags_be32.encode
    for compat in (expression.nft_target, expression.nft_match):
        compat.nla_map = tuple(_raw_info(*row) for row in compat.nla_map)
    flags: Any = nftsocket.nft_set_elem_list_msg.set_elem.set_elem_flags
    if isinstance(flags.ops, dict):
        flags.ops = ("NFT_SET_ELEM_INTERVAL_END",)
    bases = expression.nft_payload.base_type
    bases.ops = {**bases.ops, 3: "NFT_PAYLOAD_INNER_HEADER"}


def _dynset(expression: Any) -> None:
    dynset = expression.nft_dynset
    if all(row[0] != "NFTA_DYNSET_EXPRESSIONS" for row in dynset.nla_map):
        dynset.nla_map = (*dynset.nla_map, ("NFTA_DYNSET_EXPRESSIONS", "*rule_expr"))
    if "NFT_DYNSET_F_EXPR" not in dynset.dynset_flags.ops:
        dynset.dynset_flags.ops = (*dynset.dynset_flags.ops, "NFT_DYNSET_F_EXPR")
    if dynset.rule_expr is None:
        dynset.rule_expr = expression


def _raw_info(name: str, kind: str, *rest: Any) -> tuple[Any, ...]:
    return (name, "cdata" if name.endswith("_INFO") else kind, *rest)
