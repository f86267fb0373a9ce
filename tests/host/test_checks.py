"""What `sbc-agent doctor` finds, each on a host that has that fault."""

import os
import pwd
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import Config, read_config
from agent.host import check_controller, check_files, check_host, check_kernel, check_keys
from agent.host.finding import Finding, State
from agent.host.unit import drop_in, needs
from tests.fakes.namespaces import Namespace, need_namespaces

WHEN = 1_795_000_000.0


def states(findings: Iterator[Finding] | list[Finding]) -> list[State]:
    return [one.state for one in findings]


def only(findings: Iterator[Finding] | list[Finding]) -> Finding:
    (one,) = findings
    return one


def config(text: str) -> Config:
    return read_config(text if "[hook]" in text else f"[hook]\n{text}")


def test_missing_configuration_leads_to_setup(tmp_path: Path) -> None:
    read, found = check_files.read_configuration(tmp_path / "agent.toml")
    assert read is None
    assert only(found).advice == "sbc-agent setup"


def test_every_error_of_the_configuration_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("[hook]\nmode = 7777\nsoket = 1\n")
    _, found = check_files.read_configuration(path)
    assert states(found) == [State.FAULT, State.FAULT]


def test_policy_without_trunks_is_right_and_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("generation = 1\n")
    _, found = check_files.read_rules(config(f'policy.file = "{path}"\n[hook]'))
    assert states(found) == [State.OK, State.WARNING]


def test_records_that_the_service_may_not_write_are_named(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    where = config(f'[hook]\n[records]\ndirectory = "{tmp_path}/spool"\n[restart]\ndirectory = "{tmp_path}/none"')
    user = pwd.getpwuid(os.getuid()).pw_name
    assert list(check_files.writable(where, user)) == []
    other = next(one.pw_name for one in pwd.getpwall() if one.pw_uid != os.getuid())
    assert only(list(check_files.writable(where, other))).advice == f"chown -R {other}: {tmp_path}/spool"


def test_file_that_the_service_may_not_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:  # not below pytest's folder, which nobody else may pass
        folder = Path(name)
        path = folder / "policy.toml"
        path.write_text("")
        path.chmod(0o600)
        folder.chmod(0o755)
        assert check_files.blocking(path, uid=12345, groups={12345}) == path
        assert check_files.blocking(path, uid=path.stat().st_uid, groups=set()) is None
        path.chmod(0o640)
        assert check_files.blocking(path, uid=12345, groups={path.stat().st_gid}) is None
        folder.chmod(0o700)
        assert check_files.blocking(path, uid=12345, groups={12345}) == folder


def test_drop_in_of_another_configuration_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "sbc-edge-agent.service").touch()
    queue, installed = config("[queue]"), tmp_path / "50.conf"
    assert only(check_kernel.privileges(queue, installed, tmp_path)).state is State.FAULT
    installed.write_text(drop_in(needs(queue)))
    assert only(check_kernel.privileges(queue, installed, tmp_path)).state is State.OK
    assert only(check_kernel.privileges(config("[hook]"), installed, tmp_path)).state is State.FAULT


def test_drop_in_is_no_matter_where_there_is_no_service(tmp_path: Path) -> None:
    assert not list(check_kernel.privileges(config("[queue]"), tmp_path / "50.conf", tmp_path))


def test_owner_of_a_queue_is_found(tmp_path: Path) -> None:
    rows = tmp_path / "nfnetlink_queue"
    rows.write_text(" 5060  31337     0 2 65535     0     0        3  1\n")
    assert check_kernel.queue_owner(5060, rows) == 31337
    assert check_kernel.queue_owner(506, rows) == 0
    assert check_kernel.queue_owner(5060, tmp_path / "absent") == 0


def test_interface_that_is_not_there_is_waited_for() -> None:
    found = list(check_kernel.capture(config('[capture]\ninterfaces = ["absent0", "lo"]')))
    assert [(one.state, one.found) for one in found[:2]] == [
        (State.WARNING, "there is no interface absent0 now"),
        (State.OK, "the interface lo is up"),
    ]


def test_taken_port_names_who_has_it() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        text = f'metrics.listen = ""\n[redirect]\nudp = ["127.0.0.1:{taken.getsockname()[1]}"]'
        found = only(check_host.ports(read_config(text), runs=False))
        mine = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
        assert (found.state, found.about) == (State.FAULT, "redirect.udp")
        assert found.found.endswith(f"is taken by {mine}")


def test_address_of_another_host_is_a_fault() -> None:
    text = 'metrics.listen = ""\n[redirect]\nudp = ["192.0.2.77:5070"]'
    assert only(check_host.ports(read_config(text), runs=False)).found == "this host has no address 192.0.2.77"


def test_ports_are_not_tried_while_the_agent_has_them() -> None:
    assert not list(check_host.ports(config("[hook]"), runs=True))


def test_full_disk_is_a_fault_and_room_is_not(tmp_path: Path) -> None:
    def found(ratio: float, most: int) -> State:
        text = f'records = {{ directory = "{tmp_path}", min_free_ratio = {ratio}, max_bytes = {most} }}\n[hook]'
        return only(check_host.disk(read_config(text))).state

    room = os.statvfs(tmp_path)
    assert found(0.0, 64 << 20) is State.OK
    assert found(0.0, room.f_blocks * room.f_frsize) is State.WARNING
    if room.f_bavail / room.f_blocks < 0.99:
        assert found(0.99, 64 << 20) is State.FAULT


def test_small_buffers_of_the_kernel_are_a_warning(tmp_path: Path) -> None:
    setting = tmp_path / "rmem_max"
    redirect = config('[redirect]\nudp = ["127.0.0.1:5070"]')
    setting.write_text("212992\n")
    assert only(check_host.buffers(redirect, setting)).state is State.WARNING
    setting.write_text("8388608\n")
    assert only(check_host.buffers(redirect, setting)).state is State.OK


def test_little_memory_is_a_warning(tmp_path: Path) -> None:
    information = tmp_path / "meminfo"
    information.write_text("MemTotal: 1000000 kB\nMemAvailable: 300000 kB\n")
    assert only(check_host.memory(information)).state is State.WARNING
    information.write_text("nonsense")
    assert not list(check_host.memory(information))


def test_clock_is_graver_where_signatures_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_host, "synchronised", lambda: (False, 16.0))
    plain = config("[hook]")
    signing = config('[signing]\ncertificate = "c"\nkey = "k"\nx5u = "https://certs.example.net/c.pem"')
    assert only(check_host.clock(plain)).state is State.WARNING
    assert only(check_host.clock(signing)).state is State.FAULT
    monkeypatch.setattr(check_host, "synchronised", lambda: (True, 0.01))
    assert only(check_host.clock(signing)).state is State.OK


def test_signing_key_that_is_missing_and_certificate_that_ended_are_faults(tmp_path: Path) -> None:
    from agent.cli.main import main

    assert main(["identity", "make-test-pki", str(tmp_path / "lab"), "--spc", "1234"]) == 0
    lab = tmp_path / "lab"
    text = """[signing]\ncertificate = "{0}/signer.pem"\nkey = "{0}/{1}"\nx5u = "https://certs.example.net/c.pem"\n"""
    good = config(text.format(lab, "signer.key"))
    assert only(check_keys.certificates(config(text.format(lab, "absent.key")), WHEN)).state is State.FAULT
    now = (lab / "signer.pem").stat().st_mtime
    assert only(check_keys.certificates(good, now)).state in {State.OK, State.WARNING}
    assert only(check_keys.certificates(good, now + 50 * 365 * 86_400)).found.count("ended at") == 1


def test_controller_that_is_away_is_a_warning_and_an_agent_not_enrolled_a_fault(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        managed = config(f'[controller]\naddress = "127.0.0.1:{port}"\ndirectory = "{tmp_path}"')
        assert states(check_controller.controller(managed, WHEN)) == [State.FAULT, State.WARNING]
        listening.listen()
        assert states(check_controller.controller(managed, WHEN)) == [State.FAULT, State.OK]


@pytest.mark.kernel
def test_the_guard_s_engine_is_looked_at_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    need_namespaces()

    def state(text: str) -> list[State]:
        return [one.state for one in check_kernel.netfilter(config(text)) if one.about == "ebpf"]

    with Namespace("doctor") as space, space.inside():
        assert state("[hook]\n[kernel]") == [State.OK]
        assert state('[hook]\n[kernel]\nengine = "nftables"') == []
        monkeypatch.setattr("agent.kernel.ebpf._SYSCALL", None)  # as on a machine that we do not know
        assert state("[hook]\n[kernel]") == [State.WARNING]
        assert state('[hook]\n[kernel]\nengine = "ebpf"') == [State.FAULT]
