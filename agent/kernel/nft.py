"""Our tables in the kernel: install, change, read and remove them. Knows nothing of what they are for.

One `Nft` is one netlink socket. A table that is made as owned belongs to that socket: only it may change the table, and
when it closes, by whatever end of the process, the kernel removes the table. Every change is one transaction: it
applies whole, between two packets, or not at all.

Calls take from 0.1 ms to some milliseconds, or as long as another program's transaction that they have to wait for:
call them from a thread where that matters (they give up the interpreter while they wait).
"""

import errno
import os
from collections.abc import Iterable, Sequence
from typing import Final, Self

from pyroute2.netlink.nfnetlink import nftsocket as nf

from agent.kernel.netlink import KernelError, Message, NetlinkSocket
from agent.kernel.ruleset import Chain, Element, NamedSet, Reassemble, Rule, Statement, Table, ToQueue
from agent.kernel.ruleset_wire import (
    SUBSYSTEM,
    ElementFound,
    RuleFound,
    TableFound,
    Via,
    add_messages,
    delete_messages,
    delete_table_message,
    empty_message,
    read_elements,
    read_rule,
    read_table,
    request,
    table_messages,
)

# What the kernel says to an expression that it was built without, or whose module is not there.
_NO_SUCH_EXPRESSION: Final = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTSUP})


class Nft:
    """nf_tables through a socket of its own. `with`, or `open` and `close`. Not for two threads at once."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Raises OSError where there is no netlink."""
        self._netlink.open()

    def close(self) -> None:
        """Close the socket; the kernel removes the tables that it owns."""
        self._netlink.close()

    # ---- tables

    def install(self, table: Table, via: Via = "nft") -> None:
        """Make the table, in place of one with its name if there is one. Raises KernelError; PermissionError
        without the capability."""
        messages = table_messages(table, via)
        if self.find(table.name) is not None:
            messages.insert(0, delete_table_message(table.name))
        try:
            self._netlink.batch(messages, SUBSYSTEM)
        except KernelError as error:
            raise self._in_words(error, table.name) from None

    def remove(self, name: str) -> bool:
        """Remove the table; False if there was none. Raises KernelError, above all if another process holds it."""
        if self.find(name) is None:
            return False
        try:
            self._netlink.batch([delete_table_message(name)], SUBSYSTEM)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return False
            raise self._in_words(error, name) from None
        return True

    def tables(self) -> list[TableFound]:
        """All tables of family inet."""
        asked = request(nf.NFT_MSG_GETTABLE)
        return [read_table(data) for data in self._netlink.dump(asked, "list of tables")]

    def find(self, name: str) -> TableFound | None:
        """The table of this name."""
        return next((table for table in self.tables() if table.name == name), None)

    def _in_words(self, error: KernelError, name: str) -> KernelError:
        """EPERM for a message of a batch means an owner, which the kernel does not say."""
        found = self.find(name) if error.errno == errno.EPERM else None
        if found is None or not found.owner:
            return error
        holder = f"another process holds table {name} (netlink port {found.owner}); stop that agent first"
        return KernelError(error.number, errno.EPERM, error.what, holder)

    # ---- what is in them

    def rules(self, table: str) -> list[RuleFound]:
        """The rules of a table with their counters, in order. Raises KernelError."""
        asked = request(nf.NFT_MSG_GETRULE, table=table)
        return [read_rule(data) for data in self._netlink.dump(asked, f"rules of table {table}")]

    def counters(self, table: str) -> dict[str, int]:
        """Packets by the comment of their rule, over all rules with that comment."""
        counts: dict[str, int] = {}
        for rule in self.rules(table):
            if rule.comment:
                counts[rule.comment] = counts.get(rule.comment, 0) + rule.packets
        return counts

    def elements(self, table: str, name: str) -> list[ElementFound]:
        """The elements of a set that have not expired."""
        asked = request(nf.NFT_MSG_GETSETELEM, table=table, set=name)
        found = self._netlink.dump(asked, f"elements of set {name}")
        return [element for data in found for element in read_elements(data)]

    def fill(self, table: str, sets: Iterable[tuple[NamedSet, Sequence[Element]]]) -> None:
        """Give each set these elements and no others, all in one transaction."""
        self.send(fill_messages(table, sets))

    def add(self, table: str, one: NamedSet, elements: Sequence[Element]) -> None:
        """Add elements; what is there already stays as it is."""
        self.send(add_messages(table, one, elements))

    def delete(self, table: str, one: NamedSet, elements: Sequence[Element]) -> None:
        """Remove elements. Raises KernelError with ENOENT if one is not there; then none is removed."""
        self.send(delete_messages(table, one, elements))

    def send(self, messages: Sequence[Message]) -> None:
        """One transaction of messages that were made before."""
        if messages:
            self._netlink.batch(messages, SUBSYSTEM)

    # ---- what this kernel can do

    def offers(self, statement: Statement, via: Via = "nft") -> bool:
        """Whether rules may say this here. Raises PermissionError without the capability, KernelError for
        what has other reasons."""
        name = f"sbc_edge_probe_{os.getpid()}"
        table = Table(name, owned=True, chains=(Chain("probe", (Rule((statement,)),)),))
        messages = [*table_messages(table, via), delete_table_message(name)]
        try:
            self._netlink.batch(messages, SUBSYSTEM)  # made and removed in one transaction: no packet ever meets it
        except KernelError as error:
            if error.errno in _NO_SUCH_EXPRESSION and error.what.startswith("rule "):
                return False
            raise
        return True

    def way_to_queue(self) -> Via | None:
        """How packets get into a queue here; None if this kernel offers no way."""
        ways: tuple[Via, ...] = ("nft", "xt")
        return next((way for way in ways if self.offers(ToQueue(0), way)), None)

    def reassembles(self) -> bool:
        """Whether `Reassemble` can be had."""
        return self.offers(Reassemble())


def fill_messages(table: str, sets: Iterable[tuple[NamedSet, Sequence[Element]]]) -> list[Message]:
    """The messages of `Nft.fill`."""
    out: list[Message] = []
    for one, elements in sets:
        out += [empty_message(table, one), *add_messages(table, one, elements)]
    return out
