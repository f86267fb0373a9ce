"""Fixtures of the tests about certificates and lists."""

import pytest


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper's turns follow each other at once; what is due is said by the test's clock."""
    monkeypatch.setattr("agent.stir.keeper.TURN_SECONDS", 0.001)
