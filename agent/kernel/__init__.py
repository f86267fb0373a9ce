"""All that talks to the kernel. Of pyroute2 only the messages are loaded.

pyroute2's own __init__ imports its database of interfaces, and with that SQLite and 140 modules, 10 MB, of which we use
none; a small appliance has no SQLite. So its package is put in place without running that.
"""

import importlib.util
import sys


def _without_its_database() -> None:
    """`import pyroute2.netlink...` from now on finds the package, and does not run its __init__."""
    if "pyroute2" in sys.modules:  # somebody else wanted all of it
        return
    spec = importlib.util.find_spec("pyroute2")
    if spec is not None:
        sys.modules["pyroute2"] = importlib.util.module_from_spec(spec)


_without_its_database()
