"""[identity] of agent.toml: what it may say, and in which words it is refused."""

from pathlib import Path

import pytest

from agent.documents import read_toml
from agent.model import ConfigError
from agent.settings import fill
from agent.stir.addresses import why_not
from agent.stir.settings import IdentitySettings


def read(text: str) -> tuple[IdentitySettings | None, list[str]]:
    errors: list[ConfigError] = []
    settings = fill(IdentitySettings, read_toml(text), "identity", errors)
    return settings, [str(error) for error in errors]


def test_empty_section_trusts_nobody_and_allows_no_special_address() -> None:
    settings, errors = read("")
    assert errors == []
    assert settings == IdentitySettings()
    assert (settings.trust_lists, settings.networks, settings.ports) == ((), (), (443, 8443))


def test_full_section_is_read() -> None:
    settings, errors = read(
        """
        trust_lists = ["/etc/sbc-edge-agent/trust/us.jws", "https://authenticate-api.example.net/api/v1/ca-list"]
        pa_roots = "/etc/sbc-edge-agent/trust/pa-roots.pem"
        crls = ["https://authenticate-api.example.net:8443/download/v1/crl"]
        crl_signers = "/etc/sbc-edge-agent/trust/crl-signers.pem"
        allow_addresses = ["10.1.0.0/16", "fd00:1::/32", "192.0.2.7"]
        https_ca = "/etc/sbc-edge-agent/tls/private.pem"
        fetch_seconds = 2
        """
    )
    assert errors == []
    assert settings is not None
    assert settings.pa_roots == Path("/etc/sbc-edge-agent/trust/pa-roots.pem")
    assert why_not("192.0.2.7", settings.networks) == ""


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("ports = []", "identity.ports: is empty: no certificate could be fetched"),
        ("ports = [0]", "identity.ports[0]: must be from 1 to 65535"),
        ('allow_addresses = ["127.0.0.1/8"]', "identity.allow_addresses[0]: 127.0.0.1/8 has host bits set"),
        (
            'allow_addresses = ["localhost"]',
            "identity.allow_addresses[0]: 'localhost' does not appear to be an IPv4 or IPv6 network",
        ),
        ('trust_lists = [""]', "identity.trust_lists[0]: must be the name of a file or an https URL"),
        ('trust_lists = ["http://pa.example.net/"]', "identity.trust_lists[0]: URL is not https"),
        ('crls = ["https://pa.example.net/crl?full"]', "identity.crls[0]: URL has a query"),
        (
            'trust_lists = ["https://pa.example.net/list"]',
            "identity.pa_roots: is needed: a trust list from a URL is taken only with a signature of these",
        ),
        (
            'crls = ["/var/lib/crl.pem"]',
            "identity.crl_signers: is needed: a revocation list is taken only with a signature of these",
        ),
        ("max_age_seconds = 90000", "identity.max_age_seconds: must be from 60 to 86400"),
        ("fetch_seconds = 0", "identity.fetch_seconds: must be from 0.1 to 60"),
        ("max_fetches = 1", "identity.max_fetches: must be from 2 to 1024"),
        ("trust_list = []", 'identity.trust_list: unknown key; did you mean "trust_lists"?'),
    ],
)
def test_wrong_value_is_refused_by_name(text: str, error: str) -> None:
    assert read(text) == (None, [error])
