"""What agent.http2 and agent.rpc count, in the words of metrics."""

from collections.abc import Mapping
from typing import Final

COUNTED: Final = {
    "http2_faults": "faults",
    "ping_floods": "pings",
    "settings_floods": "settings",
    "reset_floods": "resets",
    "continuation_floods": "continuations",
    "header_bombs": "header bytes",
    "empty_frame_floods": "empty frames",
    "window_update_floods": "window updates",
    "priority_floods": "priorities",
    "late_frame_floods": "late frames",
    "unknown_frame_floods": "unknown frames",
    "goaway_floods": "goaways",
    "connections_refused": "connections_refused",
    "handshakes_failed": "handshakes_failed",
    "silent_connections": "silent",
    "unread_connections": "unread",
    "without_http2": "no_http2",
    "accept_errors": "accept_errors",
    "forsaken_calls": "forsaken",
}


def counters(component: str, counts: Mapping[str, int]) -> dict[str, int]:
    """All of them, under names that begin with the component's."""
    return {f"{component}_{name}": counts.get(counted, 0) for name, counted in COUNTED.items()}
