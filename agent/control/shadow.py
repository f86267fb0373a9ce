"""Has recorded calls decided by another policy, for an operator who wants to know what it would change.

An edge: starts the process in which agent/control/replaying.py does it. One at a time.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from agent.control.artifacts import DNO, ArtifactFiles
from agent.control.messages import FieldViolation, Offer
from agent.control.preparing import Refused, problem_of
from agent.control.replaying import question
from agent.ops.aside import run_aside

SECONDS_MAX: Final = 90.0
"""A minute of replaying, and the start."""

BYTES_MAX: Final = 8 << 20


class Shadow:
    """`spool` None: this agent keeps no records. `active` is the offer in force, None for the policy file."""

    def __init__(
        self, spool: Path | None, policy_file: Path, active: Callable[[], Offer | None], artifacts: ArtifactFiles
    ) -> None:
        self._spool = spool
        self._file = policy_file
        self._active = active
        self._artifacts = artifacts
        self._busy = False

    async def replay(self, policy: bytes, window: float) -> Sequence[str]:
        """JSON objects: calls that change, then sums. Raises Refused for a wrong policy, LookupError, saying why."""
        if self._spool is None:
            raise LookupError("this agent keeps no records: agent.toml has no section [records]")
        if self._busy:
            raise LookupError("another policy is being replayed; ask again")
        offer = self._active()
        manifests = offer.manifests if offer is not None else ()
        lists = {m.name: self._artifacts.path(m.sha256) for m in manifests if m.kind == DNO}
        before = offer.policy if offer is not None else None
        given = question(self._spool, window, policy, before, self._file, lists)
        self._busy = True
        try:
            said, complaints = await run_aside("agent.control.replaying", (), SECONDS_MAX, BYTES_MAX, given)
        except TimeoutError:
            raise LookupError(f"not replayed within {SECONDS_MAX:g} s") from None
        except LookupError:
            raise LookupError("too many calls change") from None
        finally:
            self._busy = False
        lines = said.decode(errors="replace").splitlines()
        if complaints or not lines:
            raise LookupError(complaints.decode(errors="replace").strip()[-300:] or "the replay ended early")
        if '"replayed"' not in lines[-1]:
            faults = [json.loads(line) for line in lines]
            raise Refused(problem_of([FieldViolation(one["field"] or "policy", one["reason"]) for one in faults]))
        return lines
