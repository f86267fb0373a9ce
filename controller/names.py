"""Which names operators and controllers can have: such as fit into a URI, a file name and a log line unquoted."""

import re
from typing import Final

NAME: Final = "[a-z0-9][a-z0-9._-]{0,63}"
"""Pattern of a name."""


def name_fault(name: str) -> str:
    """Why this can be no name; "" if it can."""
    if re.fullmatch(NAME, name, re.ASCII):
        return ""
    return "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit"
