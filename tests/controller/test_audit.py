"""The audit log: what is changed, taken out, moved or cut off shows. The store's part on both databases."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from controller.audit import DETAIL_MAX, FIRST, Verification, Walk, link
from controller.errors import Invalid
from controller.model import Act, AuditEntry
from controller.store import Store, StoreSettings
from tests.controller.stores import JANE, WHEN, with_store


def chain(count: int) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for n in range(count):
        entries.append(link(entries[-1] if entries else None, Act(f"operator:{n}", "do", {"n": n}), WHEN + n))
    return entries


def verified(entries: list[AuditEntry], head: AuditEntry | None) -> Verification:
    walk = Walk()
    walk.take(entries)
    return walk.end(head.sequence if head else 0, head.hash if head else FIRST)


def test_a_chain_as_it_was_made_is_intact() -> None:
    entries = chain(20)
    assert verified(entries, entries[-1]) == Verification(True, 20, 0, entries[-1].hash)
    assert verified([], None) == Verification(True, 0, 0, FIRST)


@given(
    at=st.integers(0, 9),
    change=st.sampled_from(["at", "actor", "action", "detail", "hash", "sequence", "gone", "swapped", "twice"]),
)
def test_every_change_shows_where_it_is(at: int, change: str) -> None:
    entries = chain(10)
    head, one = entries[-1], entries[at]
    broken_at = at + 1
    match change:
        case "gone":
            del entries[at]
        case "swapped":
            entries[at], entries[at - 1] = entries[at - 1], entries[at]
            broken_at = min(at, at - 1 if at else 9) + 1 if at else 1
        case "twice":
            entries.insert(at, one)
            broken_at = at + 2
        case "at" | "sequence":
            entries[at] = replace(one, **{change: getattr(one, change) + 1})
        case "hash":
            entries[at] = replace(one, hash=bytes(32))
        case _:
            entries[at] = replace(one, **{change: getattr(one, change) + " "})
    found = verified(entries, head)
    assert (found.intact, found.broken_at, found.entries) == (False, broken_at, broken_at - 1)


def test_an_end_that_was_cut_off_shows() -> None:
    entries = chain(10)
    assert verified(entries[:7], entries[-1]) == Verification(False, 7, 8, entries[6].hash)


def test_a_field_lends_no_letters_to_its_neighbour() -> None:
    assert link(None, Act("ab", "c"), WHEN).hash != link(None, Act("a", "bc"), WHEN).hash


@given(actor=st.text(), action=st.text(), detail=st.dictionaries(st.text(), st.text()))
def test_an_entry_is_plain_whatever_was_done(actor: str, action: str, detail: dict[str, str]) -> None:
    try:
        entry = link(None, Act(actor, action, detail), WHEN)
    except Invalid:
        return
    assert (entry.actor + entry.action).isprintable()
    assert entry.detail.isascii()
    assert verified([entry], entry).intact


def test_a_detail_without_end_is_refused() -> None:
    with pytest.raises(Invalid, match=r"audit\.detail"):
        link(None, Act("a", "b", {"x": "y" * DETAIL_MAX}), WHEN)


def test_entries_are_read_in_order_and_in_pieces(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        await asyncio.gather(*(store.audit.append(Act("operator:jane", f"{n}"), WHEN) for n in range(30)))
        entries = await store.audit.entries()
        assert [entry.sequence for entry in entries] == list(range(1, 31))
        assert {entry.action for entry in entries} == {f"{n}" for n in range(30)}
        assert await store.audit.entries(after=10, limit=5) == entries[10:15]
        assert await store.audit.verify() == Verification(True, 30, 0, entries[-1].hash)

    with_store(store_settings, work)


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE audit SET detail = '{}' WHERE sequence = 7", 7),
        ("UPDATE audit SET at = at + 1 WHERE sequence = 1", 1),
        ("DELETE FROM audit WHERE sequence = 20", 20),
        ("DELETE FROM audit WHERE sequence > 25", 26),
        ("DELETE FROM audit", 1),
        ("UPDATE audit SET sequence = sequence + 100 WHERE sequence > 28", 29),
    ],
)
def test_whoever_edits_the_table_is_found_out(store_settings: StoreSettings, statement: str, broken_at: int) -> None:
    async def work(store: Store) -> None:
        for n in range(30):
            await store.audit.append(Act("operator:jane", "policy.apply", {"generation": n, "why": "\u00e9\0"}), WHEN)
        assert (await store.audit.verify()).intact
        await store._engine.write(lambda tx: tx.execute(text(statement)).close())
        found = await store.audit.verify()
        assert (found.intact, found.broken_at, found.entries) == (False, broken_at, broken_at - 1)

    with_store(store_settings, work)


def test_what_did_not_happen_is_not_in_the_log(store_settings: StoreSettings) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(Invalid):
            await store.audit.append(replace(JANE, detail={"x": "y" * DETAIL_MAX}), WHEN)
        assert (await store.audit.verify()).entries == 0

    with_store(store_settings, work)
