"""Generations as they go to agents, read from the store once for many sessions."""

from typing import Final

from controller.fleet.messages import Offering
from controller.store import Store

KEPT: Final = 4
"""Generations in memory, up to 1 MB each: the one that is rolled out, the one before, and what these may become."""


class Offerings:
    """Of one controller."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[tuple[int, float], Offering] = {}  # a generation may be rolled out again, with another plan

    async def get(self, generation: int) -> Offering:
        """Raises NotFound, StoreError."""
        soak = (await self._store.rollouts.get(generation)).plan.soak
        kept = self._kept.get((generation, soak))
        if kept is not None:
            return kept
        policy = await self._store.policies.get(generation)
        artifacts = [await self._store.artifacts.get(key) for key in policy.info.artifacts]
        offering = Offering(generation, policy.info.sha256, policy.document, tuple(artifacts), soak)
        self._kept[generation, soak] = offering
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return offering
