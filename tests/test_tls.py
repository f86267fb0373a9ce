"""The server's side of TLS: what files it takes, and how those are named that it does not."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from agent.model import ConfigError
from agent.tls import server_context
from tests.fakes.certificates import Authority

AUTHORITY = Authority()


def write(folder: Path, **contents: bytes) -> dict[str, Path]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def test_a_certificate_and_its_key_are_enough(tmp_path: Path) -> None:
    own = AUTHORITY.sign("server.example.net")
    files = write(tmp_path, certificate=own.certificate, key=own.key)
    assert server_context(**files, client_ca=None).verify_mode.name == "CERT_NONE"


def test_clients_need_a_certificate_where_an_authority_is_named(tmp_path: Path) -> None:
    own = AUTHORITY.sign("server.example.net")
    files = write(tmp_path, certificate=own.certificate, key=own.key, client_ca=AUTHORITY.certificate)
    assert server_context(**files).verify_mode.name == "CERT_REQUIRED"


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path, certificate=AUTHORITY.sign("a").certificate, key=AUTHORITY.sign("b").key)
    with pytest.raises(ConfigError) as caught:
        server_context(**files, client_ca=None)
    assert caught.value.field == "certificate"


def test_an_encrypted_key_is_named_and_nobody_is_asked_for_its_password(tmp_path: Path) -> None:
    own = AUTHORITY.sign("server.example.net")
    key = serialization.load_pem_private_key(own.key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"constructed"),
    )
    files = write(tmp_path, certificate=own.certificate, key=key)
    with pytest.raises(ConfigError, match="is encrypted") as caught:
        server_context(**files, client_ca=None)
    assert caught.value.field == "key"


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    own = AUTHORITY.sign("server.example.net")
    files = write(tmp_path, certificate=own.certificate, key=own.key)
    if content is not None:
        write(tmp_path, client_ca=content)
    with pytest.raises(ConfigError) as caught:
        server_context(**files, client_ca=tmp_path / "client_ca")
    assert caught.value.field == "client_ca"
