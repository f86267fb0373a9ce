"""Who may ask: what the settings demand, what a token file may hold, and what a certificate is called."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from agent.ingress.hook.clients import LOCAL
from agent.model import ConfigError
from agent.settings import fill
from agent.stir.api.access import Access, read_tokens
from agent.stir.api.faults import ApiError
from agent.stir.api.settings import StirApiSettings
from agent.tls import names_of
from tests.stir.api.apis import TOKEN, token_file

FILE = Path("/etc/sbc-edge-agent/file")
TLS: dict[str, Any] = {"certificate": FILE, "key": FILE}
MUTUAL: dict[str, Any] = {**TLS, "client_ca": FILE, "allowed_clients": ("CN:sbc1",)}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"listen": "[::1]:8082"},
        {"listen": "127.9.9.9:8082"},
        {"token_file": FILE},
        TLS,
        {"listen": "0.0.0.0:443", **MUTUAL},
        {"listen": "0.0.0.0:443", **TLS, "token_file": FILE},
        {"listen": "[::]:443", **MUTUAL, "token_file": FILE},
        {"base_path": "/StirShakenWeb/resources"},
    ],
)
def test_settings_that_keep_strangers_out_are_right(settings: dict[str, Any]) -> None:
    StirApiSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"listen": "0.0.0.0:443"}, "client_ca"),
        ({"listen": "[::]:443"}, "client_ca"),
        ({"listen": "192.0.2.1:443", **TLS}, "client_ca"),
        ({"listen": "[::ffff:127.0.0.1]:443", **TLS}, "client_ca"),
        ({"listen": "192.0.2.1:443", "token_file": FILE}, "certificate"),
        ({"certificate": FILE}, "key"),
        ({"key": FILE}, "certificate"),
        ({"client_ca": FILE, "allowed_clients": ("CN:sbc1",)}, "certificate"),
        ({**TLS, "client_ca": FILE}, "allowed_clients"),
        ({**TLS, "allowed_clients": ("CN:sbc1",)}, "client_ca"),
        ({**MUTUAL, "allowed_clients": ("sbc1",)}, "allowed_clients[0]"),
        ({**MUTUAL, "allowed_clients": ("CN:sbc1", "DNS:")}, "allowed_clients[1]"),
        ({"listen": "localhost:443"}, "listen"),
        ({"base_path": "stir"}, "base_path"),
        ({"base_path": "/"}, "base_path"),
        ({"base_path": "/a/"}, "base_path"),
        ({"instance": "a b"}, "instance"),
        ({"instance": "a\r\nb"}, "instance"),
        ({"answer_seconds": 6.0}, "answer_seconds"),
    ],
)
def test_settings_that_would_let_strangers_in_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        StirApiSettings(**settings)
    assert caught.value.field == field


def test_a_table_of_toml_is_enough() -> None:
    errors: list[ConfigError] = []
    table = {"listen": "127.0.0.1:0", "answer_seconds": 2, "max_in_flight": 4}
    assert fill(StirApiSettings, table, "stir_api", errors) == StirApiSettings(
        listen="127.0.0.1:0", answer_seconds=2.0, max_in_flight=4
    )
    assert fill(StirApiSettings, {"listen": "0.0.0.0:1"}, "stir_api", errors) is None
    assert errors[0].field == "stir_api.client_ca"


def test_tokens_are_kept_as_digests(tmp_path: Path) -> None:
    path = token_file(tmp_path, f"# one\n{TOKEN}\n\n  another-token-0123456789==\n")
    assert read_tokens(path) == (
        hashlib.sha256(TOKEN.encode()).digest(),
        hashlib.sha256(b"another-token-0123456789==").digest(),
    )


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("", 0o600, "has 0 tokens"),
        ("# none\n", 0o600, "has 0 tokens"),
        ("constructed-token-%02d-abcdef\n" * 17, 0o600, "line 1: must be"),
        ("\n".join(f"constructed-token-{n:02d}-abcdef" for n in range(17)), 0o600, "has 17 tokens"),
        (f"{TOKEN}\nshort\n", 0o600, "line 2: must be 20 or more"),
        (f"{TOKEN} {TOKEN}\n", 0o600, "line 1: must be"),
        (f"{TOKEN}\n", 0o644, "can be read by everybody"),
    ],
)
def test_a_token_file_that_protects_nothing_is_refused(tmp_path: Path, text: str, mode: int, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_tokens(token_file(tmp_path, text, mode))
    assert why in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert "short" not in str(caught.value)


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read_tokens(tmp_path / "nowhere")


def access(tmp_path: Path, *, tokens: bool = False, allowed: tuple[str, ...] = ()) -> Access:
    extra = {**MUTUAL, "allowed_clients": allowed} if allowed else {}
    return Access(StirApiSettings(**extra), read_tokens(token_file(tmp_path)) if tokens else ())


def test_on_loopback_everybody_of_this_host_may_ask(tmp_path: Path) -> None:
    assert access(tmp_path).client((), None) == LOCAL


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer   {TOKEN} "])
def test_who_knows_a_token_may_ask(tmp_path: Path, header: str) -> None:
    assert access(tmp_path, tokens=True).client((), header) == "token 1"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xe9", f"Bearer {TOKEN} {TOKEN}"],
)
def test_who_does_not_may_not(tmp_path: Path, header: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        access(tmp_path, tokens=True).client((), header)
    assert caught.value.fault.status == 401
    assert "WWW-Authenticate" in caught.value.headers
    assert TOKEN not in str(caught.value)


def test_a_certificate_on_the_list_may_ask(tmp_path: Path) -> None:
    door = access(tmp_path, allowed=("CN:sbc1", "DNS:sbc2.example.net"))
    assert door.client(("URI:x", "DNS:sbc2.example.net"), None) == "DNS:sbc2.example.net"
    for names in ((), ("CN:sbc2",), ("DNS:sbc1",)):
        with pytest.raises(ApiError) as caught:
            door.client(names, None)
        assert caught.value.fault.status == 403


def test_where_both_are_asked_for_one_is_not_enough(tmp_path: Path) -> None:
    door = access(tmp_path, tokens=True, allowed=("CN:sbc1",))
    assert door.client(("CN:sbc1",), f"Bearer {TOKEN}") == "CN:sbc1"
    for names, header in (((), f"Bearer {TOKEN}"), (("CN:sbc1",), None)):
        with pytest.raises(ApiError):
            door.client(names, header)


def test_names_of_a_certificate() -> None:
    certificate = {
        "subject": ((("countryName", "US"),), (("commonName", "sbc1"),), (("commonName", ""),)),
        "subjectAltName": (("DNS", "sbc1.example.net"), ("URI", "spiffe://example.net/sbc1"), ("IP Address", "::1")),
    }
    assert names_of(certificate) == ("DNS:sbc1.example.net", "URI:spiffe://example.net/sbc1", "CN:sbc1")
    assert names_of({}) == names_of(None) == ()
