"""The first agent.toml and policy.toml for a host: short, commented, and harmless. They only look on, or only shadow.

Knows what the two files may hold; both are read as the daemon reads them before anybody is shown them. The files that
explain every key are packaging/agent.toml and agent/policy/example.toml.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final, Literal

from agent.config import read_config
from agent.loading import open_policy
from agent.policy.document import from_toml

WayIn = Literal["capture", "queue", "redirect", "hook"]

WORDS: Final[dict[WayIn, str]] = {
    "capture": "only look at what comes and goes; nothing is enforced, whatever the policy says",
    "queue": "in the path of INVITEs by UDP, without any change to the SBC; calls pass when the agent is away",
    "redirect": "the SBC asks by SIP",
    "hook": "the SBC asks over gRPC (Kamailio: sbc-edge-kamailio enable)",
}
"""What each way in means, for people."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is known, found or told. `trunks` are names with their source addresses."""

    ways: tuple[WayIn, ...]
    interfaces: tuple[str, ...] = ()
    ports: tuple[int, ...] = (5060,)
    local: tuple[IPv4Address | IPv6Address, ...] = ()
    trunks: tuple[tuple[str, tuple[IPv4Network | IPv6Network, ...]], ...] = ()
    redirect: str = "127.0.0.1:5070"
    hook_group: str = ""
    policy: Path = Path("/etc/sbc-edge-agent/policy.toml")


_PARTS: Final[dict[WayIn, str]] = {
    "capture": """\
# Looks on: every call is decided as if, recorded as observed, and nothing is enforced. Needs CAP_NET_RAW.
[capture]
interfaces = {interfaces}
ports = {ports}
""",
    "queue": """\
# In the path of INVITEs by UDP to these ports of this host. Needs CAP_NET_ADMIN and CAP_NET_RAW.
[queue]
ports = {ports}
""",
    "redirect": """\
# The SBC sends each INVITE here: 302 or 404 means "go on", any other final answer is the refusal.
[redirect]
udp = [{redirect}]
""",
    "hook": """\
# SBCs ask over gRPC. Who may open the socket: the members of this group.
[hook]
socket = "/run/sbc-edge-agent/hook.sock"
group = {group}
""",
}

_AGENT: Final = """\
# Configuration of the SBC edge agent, made by `sbc-agent setup` for this host; yours from now on.
# Every key with its default: /usr/share/sbc-edge-agent/agent.toml, or sbc-edge-agent.toml(5).
# After a change: sbc-agent run --check && sbc-agent setup --service && systemctl restart sbc-edge-agent

[policy]
file = {policy}

{parts}
# Call records, in /var/lib/sbc-edge-agent/spool.
[records]
"""

_POLICY: Final = """\
# Policy of the SBC edge agent, made by `sbc-agent setup`; yours from now on. Every rule is in shadow mode: it
# decides and is recorded, and the call passes. Look at `sbc-agent top` and `sbc-agent records tail`, then enforce rule
# by rule.
# All that can be said in a policy: /usr/share/sbc-edge-agent/policy.toml.
# After a change: sbc-agent policy check FILE && systemctl reload sbc-edge-agent

generation = 1
name = "first look"

# The SBC's own addresses: INVITEs that it sends are outgoing legs, and not counted again.
local_addresses = {local}

# Who sends calls, by source address. Calls from any other address belong to the trunk "unknown".
{trunks}
# Calling numbers that cannot exist in the North American plan. Lists of numbers that never call: `sbc-agent dno build`.
[do_not_originate]
mode = "shadow"

# What any one trunk may send, and what any one caller.
[[limits]]
name = "per-trunk"
mode = "shadow"
scope = "trunk"
rate = 100
burst = 50

[[limits]]
name = "per-caller"
mode = "shadow"
scope = "calling"
rate = 10
window_seconds = 60
burst = 5
"""

_NO_TRUNKS: Final = """\
# [[trunks]]
# id = "carrier-east"
# sources = ["198.51.100.0/28"]
"""


def agent_toml(choice: Choice) -> str:
    """agent.toml for this choice. Raises ConfigError if it is one that the daemon would not take."""
    parts = "\n".join(
        _PARTS[way].format(
            interfaces=_array(choice.interfaces),
            ports=_array(choice.ports),
            redirect=json.dumps(choice.redirect),
            group=json.dumps(choice.hook_group),
        )
        for way in choice.ways
    )
    text = _AGENT.format(policy=json.dumps(str(choice.policy)), parts=parts)
    read_config(text)
    return text


def policy_toml(choice: Choice) -> str:
    """policy.toml for this choice. Raises ConfigError if it is one that the daemon would not take."""
    tables = [
        f"[[trunks]]\nid = {json.dumps(name)}\nsources = {_array(map(str, sources))}\n"
        for name, sources in choice.trunks
    ]
    text = _POLICY.format(local=_array(map(str, choice.local)), trunks="\n".join(tables) or _NO_TRUNKS)
    open_policy(from_toml(text), Path())
    return text


def _array(values: "Sequence[object] | map[str]") -> str:
    """JSON's arrays of strings and numbers are TOML's, too."""
    return json.dumps(list(values), ensure_ascii=False)
