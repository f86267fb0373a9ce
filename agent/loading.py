"""Opens what a policy is made of: the TOML file and the lists that it names. An edge; the core opens no files."""

from pathlib import Path

from agent.files import map_file
from agent.model import ConfigError, ConfigErrors
from agent.numbers.dno import DnoList
from agent.numbers.listfile import read_list
from agent.policy.compile import compile_policy
from agent.policy.document import from_toml
from agent.policy.policy import Policy
from sbcedge.policy.v1 import policy_pb2

# A policy is written by people; a file beyond this is something else that was given by mistake.
MAX_POLICY_BYTES = 16 << 20


def read_text(path: Path, most: int) -> str:
    """A whole file of UTF-8. Raises ConfigError naming the file: unreadable, larger than `most` bytes, no UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        text = data.decode()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"is not UTF-8 (byte {error.start})") from None
    if len(data) > most:
        raise ConfigError(str(path), f"is larger than {most >> 20} MiB")
    return text


def read_policy(path: Path) -> policy_pb2.Policy:
    """The policy as written. Raises ConfigError naming the file, ConfigErrors naming every wrong field."""
    return from_toml(read_text(path, MAX_POLICY_BYTES))


def open_list(path: Path) -> DnoList:
    """Map and check a compiled do-not-originate list. Raises ConfigError naming the file and what is wrong."""
    try:
        return read_list(map_file(path), str(path))
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None


def load_policy(path: Path) -> Policy:
    """Read, open the lists (paths relative to the policy's folder), compile. Raises ConfigError or ConfigErrors."""
    return open_policy(read_policy(path), path.parent)


def open_policy(message: policy_pb2.Policy, folder: Path) -> Policy:
    """Open the lists of a policy (paths relative to `folder`) and compile it. Raises ConfigError or ConfigErrors."""
    lists: dict[str, DnoList] = {}
    errors: list[ConfigError] = []
    for i, name in enumerate(message.do_not_originate.lists):
        try:
            lists[name] = open_list(folder / name)
        except ConfigError as error:
            errors.append(ConfigError(f"do_not_originate.lists[{i}]", str(error)))
    for name in ("trust_lists", "crls"):  # silence here would mean that nobody is trusted, or nothing revoked
        if getattr(message.identity, name):
            what = f"names lists of a controller, and none gave this policy: write {name} of [identity] in agent.toml"
            errors.append(ConfigError(f"identity.{name}", what))
    if errors:
        raise ConfigErrors(errors)
    return compile_policy(message, lists)
