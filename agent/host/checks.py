"""All checks in the order in which people should mend what they find. The order is all that is known here."""

from collections.abc import Iterator
from pathlib import Path

from agent.config import Config
from agent.host import check_controller, check_files, check_host, check_kernel, check_keys
from agent.host.finding import Finding


def examine(path: Path, when: float, *, runs: bool) -> Iterator[Finding]:
    """Everything about the agent.toml at `path`, at epoch second `when`; `runs`: whether the agent runs by it now."""
    config, found = check_files.read_configuration(path)
    yield from found
    if config is None:
        return
    yield from check_files.read_rules(config)[1]
    yield from check_files.readable(config, path)
    yield from check_files.writable(config)
    yield from of_configuration(config, when, runs=runs)


def of_configuration(config: Config, when: float, *, runs: bool) -> Iterator[Finding]:
    """What does not depend on where agent.toml lies."""
    yield from check_kernel.privileges(config)
    yield from check_kernel.netfilter(config)
    yield from check_kernel.capture(config)
    yield from check_keys.certificates(config, when)
    yield from check_host.clock(config)
    yield from check_host.disk(config)
    yield from check_host.ports(config, runs=runs)
    yield from check_host.buffers(config)
    yield from check_host.memory()
    yield from check_controller.controller(config, when)
