"""[controller] of agent.toml."""

import pytest

from agent.config import read_config
from agent.control.settings import check_address
from agent.model import ConfigError, ConfigErrors


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("controller.example.net:7443", "controller.example.net", 7443),
        ("controller:1", "controller", 1),
        ("192.0.2.1:65535", "192.0.2.1", 65535),
        ("[2001:db8::1]:7443", "2001:db8::1", 7443),
    ],
)
def test_an_address_is_a_name_or_an_address_and_a_port(text: str, host: str, port: int) -> None:
    assert check_address(text, "address") == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("", "controller", ":7443", "controller:", "controller:0", "controller:65536", "2001:db8::1:7443"),
        *("-a:1", "a..b:1", "a b:1", "a:1\n", "x" * 254 + ":1", "https://controller:7443", "a:\u0661"),
        *("[192.0.2.1]:1", "[::1:7443"),
    ],
)
def test_anything_else_is_refused_with_its_key(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_address(text, "address")
    assert caught.value.field == "address"


def test_the_section_needs_an_address_and_nothing_else() -> None:
    config = read_config('[hook]\n[controller]\naddress = "controller.example.net:7443"\n')
    assert config.controller is not None
    assert str(config.controller.directory) == "/var/lib/sbc-edge-agent/control"
    assert read_config("[hook]\n").controller is None
    with pytest.raises(ConfigErrors) as caught:
        read_config('[hook]\n[controller]\naddress = "nowhere"\n')
    assert [error.field for error in caught.value.errors] == ["controller.address"]
    with pytest.raises(ConfigErrors) as caught:
        read_config("[hook]\n[controller]\n")
    assert [str(error) for error in caught.value.errors] == ["controller.address: is missing"]
