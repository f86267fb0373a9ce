"""Which names operators and controllers can have: such as fit into a URI, a file name and a log line unquoted.

And which places on object storage: by their form, before any of them is asked.
"""

import re
from typing import Final
from urllib.parse import urlsplit

from agent.model import ConfigError

NAME: Final = "[a-z0-9][a-z0-9._-]{0,63}"
"""Pattern of a name."""


def name_fault(name: str) -> str:
    """Why this can be no name; "" if it can."""
    if re.fullmatch(NAME, name, re.ASCII):
        return ""
    return "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit"


def check_place(url: str) -> None:
    """Raises ConfigError for what can be no place on object storage, by its form alone."""
    if "://" not in url:
        raise ConfigError("url", 'must begin with a protocol: "s3://bucket/records"')
    try:
        parts = urlsplit(url)
        is_secret = parts.username is not None or parts.password is not None
    except ValueError as error:
        raise ConfigError("url", f"is no URL: {error}") from None
    if is_secret:
        what = "must not hold a key: name a file of them by the environment (AWS_SHARED_CREDENTIALS_FILE)"
        raise ConfigError("url", what)
