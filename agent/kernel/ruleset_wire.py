"""A description as messages of nf_tables, and what the kernel tells of tables as values. Encoding is pyroute2's.

Knows message types, attributes and registers (linux/netfilter/nf_tables.h); opens no socket. Every message says in
words what it is for, so that an error can name it.
"""

import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, assert_never, cast

from pyroute2.netlink.nfnetlink import nftsocket as nf
from pyroute2.nftables.expressions import genex

from agent.kernel import pyroute2_patches
from agent.kernel.netlink import HEADER, NFGEN, REQUEST, Message, attributes_in
from agent.kernel.ruleset import (
    PAYLOAD,
    UDP_HEADER,
    Accept,
    Begins,
    Chain,
    Count,
    Drop,
    Element,
    Field,
    Goto,
    In,
    IsFamily,
    IsUdp,
    Jump,
    LongerThan,
    Marked,
    NamedSet,
    NoDigitAt,
    Reassemble,
    Remember,
    Return,
    Rule,
    Statement,
    Table,
    ToQueue,
    caseless,
)

SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
INET: Final = 1  # NFPROTO_INET
_CREATE: Final = 0x400
_APPEND: Final = 0x800
_OWNER: Final = 2  # NFT_TABLE_F_OWNER, Linux 5.12
_ACCEPT: Final = 1
_IPV4, _IPV6 = b"\x02", b"\x0a"  # NFPROTO_IPV4, NFPROTO_IPV6
_UDP: Final = b"\x11"
_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER
_EQUAL, _GREATER = 0, 4  # NFT_CMP_EQ, NFT_CMP_GT
_UPDATE: Final = 1  # NFT_DYNSET_OP_UPDATE
_OVER: Final = 1  # NFT_LIMIT_F_INV
_BYPASS: Final = 1  # of the xt target NFQUEUE
_MARK: Final = 3  # NFT_META_MARK
_NFPROTO, _L4PROTO = 15, 16
_TIMEOUT_FLAG, _RANGES_FLAG, _DYNAMIC_FLAG = "NFT_SET_TIMEOUT", "NFT_SET_INTERVAL", "NFT_SET_EVAL"
_DROPPED, _JUMP, _GOTO, _RETURN = 0, -3, -4, -5  # verdicts

ELEMENTS_AT_ONCE: Final = 500
"""Elements in one message: an attribute has 64 kB at most, and one of IPv6 with a timeout takes 64 bytes."""

Via = Literal["nft", "xt"]
"""How packets get into a queue: by the queue expression of nf_tables, or by the xt target NFQUEUE through nft_compat
where the kernel was built without CONFIG_NFT_QUEUE."""

Expression = dict[str, Any]

pyroute2_patches.apply()


# ---- what a batch is made of ---------------------------------------------------------------------------------------


def table_messages(table: Table, via: Via = "nft") -> list[Message]:
    """Everything that makes this table, which must not exist."""
    flags = _OWNER if table.owned else 0
    out = [
        _message(f"table {table.name}", nf.nft_table_msg, nf.NFT_MSG_NEWTABLE, _CREATE, name=table.name, flags=flags)
    ]
    for number, one in enumerate(table.sets, start=1):
        out.append(_set(table.name, one, number))
        out += add_messages(table.name, one, one.elements)
    for chain in table.chains:
        out.append(_chain(table.name, chain))
    for chain in table.chains:  # when all are there, so that they may stand in any order
        out += (_rule(table.name, chain.name, number, rule, via) for number, rule in enumerate(chain.rules, start=1))
    return out


def delete_table_message(name: str) -> Message:
    """Removes it with all it has; the kernel says ENOENT where there is none."""
    return _message(f"removal of table {name}", nf.nft_table_msg, nf.NFT_MSG_DELTABLE, 0, name=name)


def add_messages(table: str, one: NamedSet, elements: Iterable[Element]) -> list[Message]:
    """Add elements; one that is there already stays as it is, with the time it has left."""
    return _element_messages(table, one, elements, f"elements of set {one.name}", nf.NFT_MSG_NEWSETELEM, _CREATE)


def delete_messages(table: str, one: NamedSet, elements: Iterable[Element]) -> list[Message]:
    """Remove elements; the kernel says ENOENT for one that is not there, and removes none."""
    return _element_messages(table, one, elements, f"removal from set {one.name}", nf.NFT_MSG_DELSETELEM, 0)


def empty_message(table: str, one: NamedSet) -> Message:
    """Remove every element of a set."""
    what = f"emptying of set {one.name}"
    return _message(what, nf.nft_set_elem_list_msg, nf.NFT_MSG_DELSETELEM, 0, table=table, set=one.name)


def _set(table: str, one: NamedSet, number: int) -> Message:
    flags = [_RANGES_FLAG] if one.ranges else []
    flags += [_TIMEOUT_FLAG] if one.timeout is not None else []
    flags += [_DYNAMIC_FLAG] if one.dynamic else []
    values: dict[str, Any] = {
        "table": table,
        "name": one.name,
        "flags": tuple(flags),
        "key_type": one.kind.value[1],
        "key_len": one.kind.value[2],
        "id": number,
    }
    if one.timeout:
        values["timeout"] = round(one.timeout * 1000)
    if one.size is not None:
        values["desc"] = {"attrs": [("NFTA_SET_DESC_SIZE", one.size)]}
    return _message(f"set {one.name}", nf.nft_set_msg, nf.NFT_MSG_NEWSET, _CREATE, **values)


def _chain(table: str, chain: Chain) -> Message:
    values: dict[str, Any] = {"table": table, "name": chain.name}
    if chain.hook is not None:
        hook = [["NFTA_HOOK_HOOKNUM", chain.hook.value[1]], ["NFTA_HOOK_PRIORITY", chain.priority]]
        values |= {"hook": {"attrs": hook}, "type": "filter", "policy": _ACCEPT}
    return _message(f"chain {chain.name}", nf.nft_chain_msg, nf.NFT_MSG_NEWCHAIN, _CREATE, **values)


def _rule(table: str, chain: str, number: int, rule: Rule, via: Via) -> Message:
    values: dict[str, Any] = {"table": table, "chain": chain, "expressions": list(expressions(rule, via))}
    if rule.comment:
        values["userdata"] = {"value": rule.comment}
    what = f"rule {number} of chain {chain}" + (f" ({rule.comment})" if rule.comment else "")
    return _message(what, nf.nft_rule_msg, nf.NFT_MSG_NEWRULE, _CREATE | _APPEND, **values)


def _element_messages(
    table: str, one: NamedSet, elements: Iterable[Element], what: str, kind: int, flags: int
) -> list[Message]:
    rows = [row for element in elements for row in _element(one, element)]
    return [
        _message(
            what,
            nf.nft_set_elem_list_msg,
            kind,
            flags,
            table=table,
            set=one.name,
            elements=rows[at : at + ELEMENTS_AT_ONCE],
        )
        for at in range(0, len(rows), ELEMENTS_AT_ONCE)
    ]


def _element(one: NamedSet, element: Element) -> Iterator[Expression]:
    """A key; or the first of a range, and the first that is no longer in it."""
    key: list[Any] = [["NFTA_SET_ELEM_KEY", {"attrs": [("NFTA_DATA_VALUE", element.key)]}]]
    if element.seconds is not None:
        key.append(["NFTA_SET_ELEM_TIMEOUT", max(1, round(element.seconds * 1000))])
    yield {"attrs": key}
    if not one.ranges:
        return
    last = int.from_bytes(element.end or element.key, "big")
    beyond = last + 1
    if beyond < 1 << 8 * len(element.key):  # a range to the very end has no beyond
        end = beyond.to_bytes(len(element.key), "big")
        yield {
            "attrs": [
                ["NFTA_SET_ELEM_FLAGS", ("NFT_SET_ELEM_INTERVAL_END",)],
                ["NFTA_SET_ELEM_KEY", {"attrs": [("NFTA_DATA_VALUE", end)]}],
            ]
        }


# ---- what a rule is made of ----------------------------------------------------------------------------------------

_LOADS: Final[dict[Field, tuple[bytes, bytes, int, int, int]]] = {
    # protocol that must be there: network, transport; then where it stands: header, offset, length
    Field.SOURCE4: (_IPV4, b"", _NETWORK, 12, 4),
    Field.SOURCE6: (_IPV6, b"", _NETWORK, 8, 16),
    Field.SOURCE6_NET: (_IPV6, b"", _NETWORK, 8, 16),
    Field.TARGET4: (_IPV4, b"", _NETWORK, 16, 4),
    Field.TARGET6: (_IPV6, b"", _NETWORK, 24, 16),
    Field.UDP_PORT: (b"", _UDP, _TRANSPORT, 2, 2),
}


def expressions(rule: Rule, via: Via) -> Iterator[Expression]:
    """The expressions of a rule, one statement after the other."""
    for statement in rule.statements:
        yield from _statement(statement, via)


def _statement(statement: Statement, via: Via) -> list[Expression]:  # noqa: C901, PLR0911, PLR0912  as in ruleset_text
    match statement:
        case In(field, name):
            return [*_load(field), _expression("lookup", {"set": name, "sreg": 1})]
        case Marked(mark):
            return [_meta(_MARK), _compare(mark.to_bytes(4, sys.byteorder))]
        case Begins(words, offset):
            mask, capitals = caseless(words)
            masking = [] if mask == b"\xff" * len(mask) else [_masked(mask)]
            return [_payload(_TRANSPORT, PAYLOAD + offset, len(words)), *masking, _compare(capitals)]
        case NoDigitAt(offset):
            outside = {"sreg": 1, "op": 1, "from_data": _data(b"0"), "to_data": _data(b"9")}
            return [_payload(_TRANSPORT, PAYLOAD + offset, 1), _expression("range", outside)]
        case LongerThan(length):
            return [*_udp(), _payload(_TRANSPORT, 4, 2), _compare(struct.pack("!H", UDP_HEADER + length), _GREATER)]
        case IsFamily(version):
            return [_meta(_NFPROTO), _compare(_IPV4 if version == 4 else _IPV6)]
        case IsUdp():
            return _udp()
        case Count():
            return [_count()]
        case Remember(field, name, limit):
            values: dict[str, Any] = {"set_name": name, "op": _UPDATE, "sreg_key": 1}
            if limit is not None:
                over = {"rate": limit.rate, "unit": 1, "burst": limit.burst, "type": 0, "flags": _OVER}
                values |= {"flags": ("NFT_DYNSET_F_EXPR",), "expressions": [_expression("limit", over), _count()]}
            return [*_load(field), _expression("dynset", values)]
        case Accept():
            return [_verdict(_ACCEPT)]
        case Drop():
            return [_verdict(_DROPPED)]
        case Return():
            return [_verdict(_RETURN)]
        case Jump(chain):
            return [_verdict(_JUMP, chain)]
        case Goto(chain):
            return [_verdict(_GOTO, chain)]
        case ToQueue(number) if via == "nft":
            return [_expression("queue", {"num": number, "total": 1, "flags": ("NFT_QUEUE_FLAG_BYPASS",)})]
        case ToQueue(number):
            info = struct.pack("=HHHxx", number, 1, _BYPASS)  # struct xt_NFQ_info_v3, padded by XT_ALIGN
            return [_expression("target", {"name": "NFQUEUE", "rev": 3, "info": info})]
        case Reassemble():
            port = _expression("immediate", {"dreg": 1, "data": _data(struct.pack("!H", 1))})
            return [port, _expression("tproxy", {"family": 0, "reg_port": 1})]
        case _:
            assert_never(statement)


def _load(field: Field) -> list[Expression]:
    network, transport, header, offset, length = _LOADS[field]
    out: list[Expression] = []
    if network:
        out += [_meta(_NFPROTO), _compare(network)]
    if transport:
        out += [_meta(_L4PROTO), _compare(transport)]
    out.append(_payload(header, offset, length))
    if field is Field.SOURCE6_NET:
        out.append(_masked(b"\xff" * 8 + bytes(8)))
    return out


def _udp() -> list[Expression]:
    return [_meta(_L4PROTO), _compare(_UDP)]


def _meta(key: int) -> Expression:
    return _expression("meta", {"key": key, "dreg": 1})


def _payload(base: int, offset: int, length: int) -> Expression:
    return _expression("payload", {"dreg": 1, "base": base, "offset": offset, "len": length})


def _masked(mask: bytes) -> Expression:
    values = {"sreg": 1, "dreg": 1, "len": len(mask), "mask": _data(mask), "xor": _data(bytes(len(mask)))}
    return _expression("bitwise", values)


def _compare(value: bytes, operation: int = _EQUAL) -> Expression:
    return _expression("cmp", {"sreg": 1, "op": operation, "data": _data(value)})


def _count() -> Expression:
    return _expression("counter", {"bytes": 0, "packets": 0})


def _verdict(code: int, chain: str = "") -> Expression:
    verdict: list[Any] = [("NFTA_VERDICT_CODE", code)]
    if chain:
        verdict.append(("NFTA_VERDICT_CHAIN", chain))
    return _expression("immediate", {"dreg": 0, "data": {"attrs": [("NFTA_DATA_VERDICT", {"attrs": verdict})]}})


def _data(value: bytes) -> Expression:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _expression(name: str, values: dict[str, Any]) -> Expression:
    return cast("Expression", genex(name, values))


def _message(what: str, cls: Any, kind: int, flags: int, /, **values: Any) -> Message:
    message = cls()
    message["attrs"] = [[cls.name2nla(name), value] for name, value in values.items()]
    message["header"]["type"] = SUBSYSTEM << 8 | kind
    message["header"]["flags"] = REQUEST | flags
    message["nfgen_family"] = INET
    message.reset()
    message.encode()
    return Message(what, bytes(message.data))


# ---- what the kernel tells -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TableFound:
    """A table of family inet. `owner` is the netlink port of the process that holds it, 0 for nobody."""

    name: str
    owner: int


@dataclass(frozen=True, slots=True)
class RuleFound:
    """The counter of a rule; zeros if it has none."""

    chain: str
    comment: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ElementFound:
    """`seconds` that it has left, None: it stays. `packets` as its own counter says, 0 if it has none. Of ranges, each
    end is an element of its own (`is_end`)."""

    key: bytes
    seconds: float | None
    packets: int
    is_end: bool = False


def request(kind: int, /, **values: Any) -> bytes:
    """A message that asks for a dump. kind: NFT_MSG_GET..."""
    cls = {nf.NFT_MSG_GETTABLE: nf.nft_table_msg, nf.NFT_MSG_GETRULE: nf.nft_rule_msg}.get(
        kind, nf.nft_set_elem_list_msg
    )
    return _message("", cls, kind, 0, **values).data


_TABLE_NAME, _TABLE_FLAGS, _TABLE_OWNER = 1, 2, 7


def read_table(data: bytes) -> TableFound:
    """pyroute2 knows no owner (NFTA_TABLE_OWNER)."""
    values = dict(attributes_in(data, HEADER.size + NFGEN.size))
    owner = values.get(_TABLE_OWNER, b"")
    return TableFound(values[_TABLE_NAME].rstrip(b"\0").decode(), int.from_bytes(owner, "big"))


def read_rule(data: bytes) -> RuleFound:
    """One rule of a dump."""
    rule = nf.nft_rule_msg(data)
    rule.decode()
    packets = octets = 0
    for expression in rule.get_attr("NFTA_RULE_EXPRESSIONS") or ():
        if expression.get_attr("NFTA_EXPR_NAME") == "counter":
            packets, octets = _counted(expression)
    comment = rule.get_attr("NFTA_RULE_USERDATA")
    words = comment["value"] if isinstance(comment, dict) else str(comment or "")
    return RuleFound(rule.get_attr("NFTA_RULE_CHAIN"), words, packets, octets)


def read_elements(data: bytes) -> Iterator[ElementFound]:
    """The elements in one message of a dump."""
    message = nf.nft_set_elem_list_msg(data)
    message.decode()
    for element in message.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS") or ():
        key = element.get_attr("NFTA_SET_ELEM_KEY").get_attr("NFTA_DATA_VALUE")
        left = element.get_attr("NFTA_SET_ELEM_EXPIRATION")
        several = element.get_attr("NFTA_SET_ELEM_EXPRESSIONS") or ()
        alone = element.get_attr("NFTA_SET_ELEM_EXPR")
        counts = [_counted(e)[0] for e in (*several, alone) if e and e.get_attr("NFTA_EXPR_NAME") == "counter"]
        seconds = None if left is None else left / 1000
        is_end = bool(element.get_attr("NFTA_SET_ELEM_FLAGS"))
        yield ElementFound(_bytes(key), seconds, sum(counts), is_end)


def _counted(expression: Any) -> tuple[int, int]:
    data = expression.get_attr("NFTA_EXPR_DATA")
    return data.get_attr("NFTA_COUNTER_PACKETS"), data.get_attr("NFTA_COUNTER_BYTES")


def _bytes(key: Any) -> bytes:
    """pyroute2 gives binary data as text in hexadecimal."""
    return key if isinstance(key, bytes) else bytes.fromhex(str(key).replace(":", ""))
