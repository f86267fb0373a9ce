"""The last known good, on disk: two slots with checksums, so that one of them is whole whatever happens to the other.

    policy-a.slot, policy-b.slot    the last two offers that were confirmed, each whole: magic, sequence, length, the
                                    offer as the contract serialises it, SHA-256 over all of that
    journal.json                    what was refused, how new the lists were, what was begun; with a SHA-256, too

Blocks; raises OSError for what cannot be written, never for what cannot be read: a damaged file is as good as none,
and is told of.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.control.credentials import write_private
from agent.control.messages import FieldViolation, Offer, Phase, Problem
from agent.control.steps import Journal, Rejection
from agent.control.wire import offer_from, offer_to

SLOTS: Final = ("policy-a.slot", "policy-b.slot")
JOURNAL: Final = "journal.json"
NOTHING: Final = Journal({}, {})

_MAGIC: Final = b"SBCSLOT\x01"
_HEAD: Final = struct.Struct("<8sQQ")
_DIGEST: Final = 32
SLOT_MAX: Final = 20 << 20
"""Bytes: an offer comes in one message, which is no larger."""

JOURNAL_MAX: Final = 1 << 20
PROBLEM_FIELDS_MAX: Final = 50
TEXT_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Kept:
    """What a slot holds."""

    sequence: int
    offer: Offer


class Slots:
    """In the agent's directory."""

    def __init__(self, directory: Path) -> None:
        self._paths = [directory / name for name in SLOTS]
        self._journal = directory / JOURNAL
        self.problems: list[str] = []
        """What was found damaged at the last look, for people."""

    def load(self) -> list[Offer]:
        """The offers that are whole, the newest first."""
        self.problems = []
        found = [kept for path in self._paths if (kept := self._read(path)) is not None]
        return [kept.offer for kept in sorted(found, key=lambda kept: -kept.sequence)]

    def save(self, offer: Offer) -> None:
        """Make it the newest, durably, in the slot that holds no newer one than the other. Raises OSError."""
        kept = [self._read(path) for path in self._paths]
        sequences = [0 if one is None else one.sequence for one in kept]
        oldest = sequences.index(min(sequences))
        for place, one in enumerate(kept):
            if one is not None and one.offer.content == offer.content:
                oldest = place  # the same under another number, or again: the other slot stays what it is
        payload = offer_to(offer)
        body = _HEAD.pack(_MAGIC, max(sequences) + 1, len(payload)) + payload
        write_private(self._paths[oldest], body + hashlib.sha256(body).digest())

    def holds(self, offer: Offer) -> bool:
        """Whether a whole slot holds it."""
        return any(kept == offer for kept in self.load())

    def _read(self, path: Path) -> Kept | None:
        try:
            with path.open("rb") as file:
                data = file.read(SLOT_MAX + 1)
            return _parse(data)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.problems.append(f"{path.name}: {error.strerror}")
        except ValueError as error:
            self.problems.append(f"{path.name}: {error}")
        return None

    # --- the journal

    def load_journal(self) -> Journal:
        """What was remembered; nothing, if it cannot be read."""
        try:
            with self._journal.open("rb") as file:
                data = file.read(JOURNAL_MAX + 1)
            kept = json.loads(data)
            if hashlib.sha256(kept["journal"].encode()).hexdigest() != kept["sha256"]:
                raise ValueError("does not have the checksum that it states")
            return _journal_of(json.loads(kept["journal"]))
        except FileNotFoundError:
            return NOTHING
        except OSError as error:
            self.problems.append(f"{JOURNAL}: {error.strerror}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self.problems.append(f"{JOURNAL}: cannot be read ({error})")
        return NOTHING

    def save_journal(self, journal: Journal) -> None:
        """Durable on return. Raises OSError."""
        text = json.dumps(_journal_to(journal))
        document = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "journal": text}
        write_private(self._journal, json.dumps(document).encode())


def _parse(data: bytes) -> Kept:
    """Raises ValueError."""
    if len(data) < _HEAD.size + _DIGEST:
        raise ValueError("is too short")
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("does not have the checksum that it states")
    magic, sequence, length = _HEAD.unpack_from(body)
    if magic != _MAGIC or length != len(body) - _HEAD.size:
        raise ValueError("is of another kind")
    return Kept(sequence, offer_from(body[_HEAD.size :]))


def _journal_to(journal: Journal) -> dict[str, Any]:
    rejected = {
        str(generation): {
            "sha256": one.sha256.hex(),
            "phase": int(one.phase),
            "code": one.problem.code,
            "message": one.problem.message[:TEXT_MAX],
            "fields": [[f.field[:TEXT_MAX], f.description[:TEXT_MAX]] for f in one.problem.fields[:PROBLEM_FIELDS_MAX]],
        }
        for generation, one in journal.rejected.items()
    }
    floors = [[kind, name, generation] for (kind, name), generation in journal.floors.items()]
    return {"rejected": rejected, "floors": floors, "begun": list(journal.begun)}


def _journal_of(table: Mapping[str, Any]) -> Journal:
    rejected = {
        int(generation): Rejection(
            bytes.fromhex(one["sha256"]),
            Phase(one["phase"]),
            Problem(
                int(one["code"]), str(one["message"]), tuple(FieldViolation(str(f), str(d)) for f, d in one["fields"])
            ),
        )
        for generation, one in table["rejected"].items()
    }
    floors = {(str(kind), str(name)): int(generation) for kind, name, generation in table["floors"]}
    generation, ends = table["begun"]
    return Journal(rejected, floors, (int(generation), int(ends)))


def _rejection(table: Mapping[str, Any]) -> Rejection:
    fields = tuple(FieldViolation(str(field), str(description)) for field, description in table["fields"])
    problem = Problem(int(table["code"]), str(table["message"]), fields)
    return Rejection(bytes.fromhex(table["sha256"]), Phase(table["phase"]), problem)
