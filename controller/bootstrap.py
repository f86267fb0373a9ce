"""The first start: somebody must be able to ask. Makes an administrator where there is none, and hands the token over.

The token is stored hashed, so this is the one moment at which it can be read.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.ops.log import Log
from controller.authority.authority import Authority
from controller.errors import Conflict
from controller.model import Act, Role
from controller.store import Store

ADMIN: Final = "admin"
ADMIN_SECONDS: Final = 366 * 86_400.0
TOKEN_FILE: Final = "admin.token"  # noqa: S105  (its name)


async def first_start(
    store: Store, authority: Authority, directory: Path, log: Log, clock: Callable[[], float]
) -> None:
    """Make the first administrator. The token goes to the terminal, where there is one, else to a file of mode 0600:
    a journal keeps what it gets, and others read it.

    Raises ControllerError, OSError.
    """
    if await store.access.operators():
        return
    try:
        token = await make_admin(store, authority, ADMIN, clock())
    except Conflict:
        return  # another controller was quicker, and has told somebody
    if sys.stderr.isatty():
        print(announcement(ADMIN, token), file=sys.stderr)  # noqa: T201  (to a person, once)
        log.info("first start: an administrator was made, the login token is on the terminal", operator=ADMIN)
        return
    path = directory / TOKEN_FILE
    write_secret(path, token)
    log.info("first start: an administrator was made; take the login token and remove the file", file=str(path))


async def make_admin(store: Store, authority: Authority, name: str, when: float) -> str:
    """A new administrator's login token. Raises Invalid, Conflict (there is one of this name), StoreError."""
    act = Act(f"controller:{store.controller_id}", "operator.create", {"name": name})
    _, token = await authority.create_operator(act, name, Role.ADMIN, ADMIN_SECONDS, when)
    return token


def announcement(name: str, token: str) -> str:
    """What a person gets to read, once."""
    return f"administrator: {name}\nlogin token:   {token}\nIt is shown once, and stored hashed. Good for a year."


def write_secret(path: Path, secret: str) -> None:
    """Into a new file that only we can read, in place of what is there. Raises OSError."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w") as file:  # noqa: PTH123  (a descriptor, not a path)
        file.write(secret + "\n")
        file.flush()
        os.fsync(descriptor)
