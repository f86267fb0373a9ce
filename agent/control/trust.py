"""Trust lists and revocation lists of offers, on their way to whoever verifies calls. Knows manifests and files.

What they amount to is decided in agent/stir. An agent that verifies nothing has them on its disk, and no more.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from agent.control.artifacts import ArtifactFiles
from agent.control.messages import Manifest
from agent.stir.given import KINDS, GivenDocument


class Trust(Protocol):
    """What is needed of agent.stir.keeper.TrustKeeper."""

    async def check_given(self, documents: Sequence[GivenDocument]) -> None:
        """Raises ConfigErrors for what cannot be used."""
        ...

    async def give(self, documents: Sequence[GivenDocument]) -> None:
        """Use these from now on. Never raises for what is wrong with one."""
        ...

    def vouch(self) -> None:
        """The controller is there, and stands for them."""
        ...


class NoTrust:
    """Of an agent without [identity]: nobody asks."""

    async def check_given(self, documents: Sequence[GivenDocument]) -> None:
        """Whatever they are."""

    async def give(self, documents: Sequence[GivenDocument]) -> None:
        """Nothing."""

    def vouch(self) -> None:
        """Nothing."""


def documents_of(manifests: Iterable[Manifest], files: ArtifactFiles) -> tuple[GivenDocument, ...]:
    """Those of an offer."""
    return tuple(
        GivenDocument(n, KINDS[m.kind], m.name, m.generation, m.sha256, files.path(m.sha256))
        for n, m in enumerate(manifests)
        if m.kind in KINDS
    )
