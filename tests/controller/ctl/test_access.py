"""Logging in, certificates, tokens, operators: who asks, and what he is told when it does not go."""

import re
import stat
from pathlib import Path

from controller.model import Role
from tests.controller.ctl.conftest import AtDesk
from tests.controller.ctl.running import Desk


def test_login_keeps_the_token_for_its_owner_alone(at_desk: AtDesk, tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        profile = tmp_path / "config" / "sbcctl" / "default"
        assert (profile / "token").read_text().strip() == desk.controller.admin
        assert {stat.S_IMODE(path.stat().st_mode) for path in profile.iterdir()} == {0o600}
        assert (await desk.ok("agents", "--json")).json == []

    at_desk(work)


def test_another_authority_is_not_logged_in_to_and_is_not_told_the_token(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        calls = desk.controller.parts.gate.tally.calls
        address, token = desk.controller.server.open_address, desk.file("t", desk.controller.admin)
        said = await desk.run("login", address, "--authority-sha256", "ab" * 32, "--token-file", token)
        assert said.code == 1
        assert "is not the controller" in said.err
        assert desk.controller.parts.gate.tally.calls == calls

    at_desk(work)


def test_a_token_that_is_not_known_is_not_kept(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        said = await desk.log_in("sbcl_000000000000_" + "0" * 64, "--profile", "other")
        assert said.code == 1
        assert "not let in" in said.err
        said = await desk.run("agents", "--profile", "other")
        assert said.code == 2
        assert "nobody has logged in here" in said.err

    at_desk(work)


def test_a_certificate_takes_the_place_of_the_token_and_gets_the_next_certificate(
    at_desk: AtDesk, tmp_path: Path
) -> None:
    async def work(desk: Desk) -> None:
        said = await desk.run("certificate")
        assert (said.code, "HOST:PORT is missing" in said.err) == (2, True)
        await desk.ok("certificate", desk.controller.server.address)
        profile = tmp_path / "config" / "sbcctl" / "default"
        assert not (profile / "token").exists()
        first = (profile / "identity.pem").read_bytes()
        assert (await desk.ok("agents", "--json")).json == []
        await desk.ok("certificate")
        assert (profile / "identity.pem").read_bytes() != first
        assert (await desk.ok("operators", "list", "--json")).json[0]["role"] == "admin"

    at_desk(work)


def test_options_and_environment_go_before_the_login(at_desk: AtDesk, tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        viewer = desk.file("viewer", await desk.token_of(Role.VIEWER))
        said = await desk.run("tokens", "list", "--token-file", viewer)
        assert said.code == 1
        assert "needs the role admin" in said.err
        assert (await desk.run("tokens", "list", "--token-file", str(tmp_path / "nowhere"))).err.startswith(
            "sbcctl: --token-file: "
        )
        said = await desk.run("agents", "--controller", "127.0.0.1:9")
        assert said.code == 1
        assert "no controller answers at 127.0.0.1:9" in said.err
        said = await desk.run("agents", "--controller", desk.controller.server.address)
        assert said.code == 1  # this port wants a certificate

    at_desk(work)


def test_an_authority_that_did_not_issue_the_servers_certificate_is_said_so(at_desk: AtDesk) -> None:
    from tests.fakes.certificates import Authority

    async def work(desk: Desk) -> None:
        said = await desk.run("agents", "--authority", desk.file("ca.pem", Authority().certificate))
        assert said.code == 1
        assert "cannot be trusted: its certificate is not of the authority" in said.err
        token = desk.file("token", "sbce_0_0")
        said = await desk.run("login", desk.controller.server.open_address, "--profile", "new", "--token-file", token)
        assert said.code == 1
        assert "give --authority or --authority-sha256" in said.err

    at_desk(work)


def test_logout_forgets(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        await desk.ok("logout")
        assert (await desk.run("agents")).code == 2
        assert (await desk.run("logout")).code == 1

    at_desk(work)


def test_a_token_is_shown_once_with_what_to_type_and_can_be_revoked(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        said = await desk.ok("tokens", "create", "--note", "sbc7", "--valid-for", "10m")
        assert f"--controller {desk.controller.server.open_address}" in said.out
        assert f"--authority-sha256 {desk.controller.parts.authority.sha256}" in said.out
        quiet = (await desk.ok("tokens", "create", "--quiet")).out.strip()
        assert re.fullmatch(r"sbce_[0-9a-f_]+", quiet)
        listed = (await desk.ok("tokens", "list", "--json")).json
        assert quiet not in str(listed)
        named = next(token for token in listed if token["note"] == "sbc7")
        await desk.ok("tokens", "revoke", named["id"])
        assert any(token["revoked"] for token in (await desk.ok("tokens", "list", "--json")).json)
        assert "revoked" in (await desk.ok("tokens", "list")).out
        said = await desk.run("tokens", "create", "--valid-for", "2h")
        assert (said.code, "valid_for: " in said.err) == (1, True)
        assert (await desk.run("tokens", "revoke", "nothing")).code == 1

    at_desk(work)


def test_operators_are_made_and_shut_out(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        token = (await desk.ok("operators", "create", "jane", "--role", "viewer", "--quiet")).out.strip()
        assert (await desk.log_in(token, "--profile", "jane")).code == 0
        said = await desk.run("operators", "create", "joe", "--role", "admin", "--profile", "jane")
        assert (said.code, "needs the role admin" in said.err) == (1, True)
        await desk.ok("operators", "revoke", "jane")
        assert "not let in" in (await desk.run("agents", "--profile", "jane")).err
        assert "revoked" in (await desk.ok("operators", "list")).out
        said = await desk.run("operators", "create", "Jane Doe", "--role", "viewer")
        assert (said.code, "name: " in said.err) == (1, True)

    at_desk(work)


def test_what_was_done_is_in_the_audit_log_and_the_log_is_intact(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        await desk.ok("tokens", "create")
        entries = (await desk.ok("audit", "list", "--json")).json
        assert entries[-1]["action"] == "token.create"
        assert entries[-1]["actor"].startswith("operator:admin-")
        after = await desk.ok("audit", "list", "--after", str(entries[-1]["sequence"]), "--json")
        assert after.json == []
        assert (await desk.ok("audit", "verify")).out.startswith("intact: ")
        assert (await desk.ok("audit", "verify", "--json")).json["intact"] is True
        assert "token.create" in (await desk.ok("audit", "list")).out

    at_desk(work)


def test_a_head_of_the_log_that_was_kept_elsewhere_shows_a_log_that_was_made_anew(at_desk: AtDesk) -> None:
    async def work(desk: Desk) -> None:
        await desk.ok("tokens", "create")
        head = (await desk.ok("audit", "verify", "--quiet")).out.strip()
        assert (await desk.ok("audit", "verify", "--json")).json["head"] == head
        assert head in (await desk.ok("audit", "verify", "--head", head)).out
        await desk.ok("tokens", "create")
        await desk.ok("audit", "verify", "--head", head)  # the log has gone on from there
        entry, _, digest = head.partition(":")
        forged = f"{entry}:{'0' * 64}"
        said = await desk.run("audit", "verify", "--head", forged)
        assert (said.code, "has another hash than it had" in said.err) == (1, True)
        said = await desk.run("audit", "verify", "--head", f"{int(entry) + 1000}:{digest}")
        assert (said.code, "NOT THE SAME LOG: it has" in said.err) == (1, True)
        assert (await desk.run("audit", "verify", "--head", "5")).code == 2

    at_desk(work)
