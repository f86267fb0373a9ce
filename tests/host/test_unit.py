"""What of privileges an agent.toml needs, as a drop-in of the service."""

from agent.config import Config, read_config
from agent.host.unit import HEADING, NEEDS, drop_in, needs


def of(text: str) -> list[str]:
    return drop_in(needs(read_config(text))).removeprefix(HEADING).splitlines()


def test_hook_needs_nothing() -> None:
    assert drop_in(needs(read_config("[hook]"))) == ""


def test_capture_needs_raw_sockets_only() -> None:
    assert of('[capture]\ninterfaces = ["eth0"]') == [
        "[Service]",
        "CapabilityBoundingSet=CAP_NET_RAW",
        "AmbientCapabilities=CAP_NET_RAW",
        "RestrictAddressFamilies=AF_NETLINK AF_PACKET",
    ]


def test_needs_of_several_sections_are_joined() -> None:
    assert "AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW" in of('[hook]\n[queue]\n[kernel]\nengine = "nftables"')


def test_the_guard_s_program_takes_a_capability_and_a_system_call() -> None:
    for engine in ("auto", "ebpf"):
        assert of(f'[hook]\n[kernel]\nengine = "{engine}"') == [
            "[Service]",
            "CapabilityBoundingSet=CAP_BPF CAP_NET_ADMIN",
            "AmbientCapabilities=CAP_BPF CAP_NET_ADMIN",
            "RestrictAddressFamilies=AF_NETLINK",
            "SystemCallFilter=bpf",
        ]


def test_credential_by_name_and_by_path_is_handed_over() -> None:
    text = """\
[hook]
[redirect]
tls = ["127.0.0.1:5071"]
certificate = "/etc/sbc-edge-agent/tls/agent.pem"
key = "/run/credentials/sbc-edge-agent.service/agent.key"
[signing]
certificate = "/etc/sbc-edge-agent/sti.pem"
x5u = "https://certs.example.net/sti.pem"
credential = "signing.key"
"""
    assert of(text) == [
        "[Service]",
        "LoadCredential=agent.key:/etc/sbc-edge-agent/keys/agent.key",
        "LoadCredential=signing.key:/etc/sbc-edge-agent/keys/signing.key",
    ]


def test_every_section_that_is_named_is_one_of_agent_toml() -> None:
    assert set(NEEDS) <= set(Config.__dataclass_fields__)
