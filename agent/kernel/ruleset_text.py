"""A description in the syntax of nft(8): for people who want to see what would be installed, and for `nft -f`.

Knows the syntax; must not know netlink. What nft lists of an installed table is the same as of this text
(tests/kernel/test_nft.py).
"""

import socket
from collections.abc import Iterator
from typing import assert_never

from agent.kernel.ruleset import (
    PAYLOAD,
    UDP_HEADER,
    Accept,
    Begins,
    Chain,
    Count,
    Drop,
    Element,
    Goto,
    In,
    IsFamily,
    IsUdp,
    Jump,
    Kind,
    Limit,
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


def table_text(table: Table) -> str:
    """The table as `nft -f` takes it."""
    return "\n".join(_table(table)) + "\n"


def _table(table: Table) -> Iterator[str]:
    yield f"table inet {table.name} {{"
    if table.owned:
        yield "\t# flags owner: goes with the process that makes it, kill -9 included"
    for one in table.sets:
        yield from _set(one)
        yield ""
    for number, chain in enumerate(table.chains):
        if number:
            yield ""
        yield from _chain(chain)
    yield "}"


def _set(one: NamedSet) -> Iterator[str]:
    yield f"\tset {one.name} {{"
    yield f"\t\ttype {one.kind.value[0]}"
    if one.size is not None:
        yield f"\t\tsize {one.size}"
    flags = [word for word, on in (("interval", one.ranges), ("dynamic", one.dynamic)) if on]
    flags += ["timeout"] if one.timeout is not None else []
    if flags:
        yield f"\t\tflags {','.join(flags)}"
    if one.timeout:
        yield f"\t\ttimeout {_time(one.timeout)}"
    if one.elements:
        elements = ", ".join(_element(one.kind, element) for element in one.elements)
        yield f"\t\telements = {{ {elements} }}"
    yield "\t}"


def _element(kind: Kind, element: Element) -> str:
    text = key_text(kind, element.key)
    if element.end is not None and element.end != element.key:
        text += f"-{key_text(kind, element.end)}"
    return text if element.seconds is None else f"{text} timeout {_time(element.seconds)}"


def key_text(kind: Kind, key: bytes) -> str:
    """An address or a port."""
    if kind is Kind.PORT:
        return str(int.from_bytes(key, "big"))
    return socket.inet_ntop(socket.AF_INET if kind is Kind.IPV4 else socket.AF_INET6, key)


def _time(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


def _chain(chain: Chain) -> Iterator[str]:
    yield f"\tchain {chain.name} {{"
    if chain.hook is not None:
        yield f"\t\ttype filter hook {chain.hook.value[0]} priority {chain.priority}; policy accept;"
    for rule in chain.rules:
        yield f"\t\t{rule_text(rule)}"
    yield "\t}"


def rule_text(rule: Rule) -> str:
    """One rule on one line."""
    words = [_statement(statement) for statement in rule.statements]
    if rule.comment:
        words.append(f'comment "{rule.comment}"')
    return " ".join(words)


def _statement(statement: Statement) -> str:  # noqa: C901, PLR0911, PLR0912  one case for each word of the vocabulary
    match statement:
        case In(field, name):
            return f"{field.value} @{name}"
        case Marked(mark):
            return f"meta mark {mark:#010x}"
        case Begins(words, offset):
            mask, capitals = caseless(words)
            masked = "" if mask == b"\xff" * len(mask) else f" & 0x{mask.hex()}"
            return f"@th,{8 * (PAYLOAD + offset)},{8 * len(words)}{masked} == 0x{capitals.hex()}"
        case NoDigitAt(offset):
            return f"@th,{8 * (PAYLOAD + offset)},8 != 0x30-0x39"
        case LongerThan(length):
            return f"udp length > {UDP_HEADER + length}"
        case IsFamily(version):
            return f"meta nfproto ipv{version}"
        case IsUdp():
            return "meta l4proto udp"
        case Count():
            return "counter"
        case Remember(field, name, limit):
            return f"update @{name} {{ {field.value}{_over(limit)} }}"
        case Accept():
            return "accept"
        case Drop():
            return "drop"
        case Return():
            return "return"
        case Jump(chain):
            return f"jump {chain}"
        case Goto(chain):
            return f"goto {chain}"
        case ToQueue(number):
            return f"queue flags bypass to {number}"
        case Reassemble():
            return "tproxy to :1"
        case _:
            assert_never(statement)


def _over(limit: Limit | None) -> str:
    return "" if limit is None else f" limit rate over {limit.rate}/second burst {limit.burst} packets counter"
