"""What Kamailio loads: the hook's client, or, where that cannot be loaded, one that lets every call pass.

Kamailio does not start if its script's Python fails. That must not be because the agent is being upgraded, was damaged,
or has libraries for another Python than the system's after an upgrade of the distribution.
"""

import os
import sys
from typing import Any, Final

FOLDER: Final = os.environ.get("SBC_EDGE_HOOK_FOLDER", "/usr/share/sbc-edge-agent/integrations/kamailio")
PASS: Final = 1


class Absent:
    """The functions that kamailio.cfg calls, without an agent."""

    def child_init(self, _rank: int) -> int:
        """Nothing to open."""
        return 0

    def screen(self, _message: Any, _trunk: str = "") -> int:
        """The call passes."""
        return PASS

    def answered(self, _message: Any) -> int:
        """Nobody to tell."""
        return PASS

    def ended(self, _message: Any, _code: str = "") -> int:
        """Nobody to tell."""
        return PASS


def mod_init() -> Any:
    """What app_python3 calls first. Never raises."""
    try:
        sys.path.insert(0, FOLDER)
        import sbc_edge_hook  # type: ignore[import-not-found]  # noqa: PLC0415  # beside this file

        return sbc_edge_hook.mod_init()
    except Exception as error:  # whatever it is: Kamailio must start
        _complain(f"sbc-edge: calls pass without being screened until Kamailio is started again: {error!r}\n")
        return Absent()


def _complain(words: str) -> None:
    try:
        import KSR  # type: ignore[import-not-found]  # noqa: PLC0415  # exists only within Kamailio

        KSR.err(words)
    except Exception:  # then nobody is told, and calls pass all the same
        sys.stderr.write(words)
