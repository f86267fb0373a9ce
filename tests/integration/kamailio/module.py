"""The hook client as a module for tests: it is installed as a file for Kamailio, not as part of a package."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Final
from unittest import mock

INTEGRATION: Final = Path(__file__).resolve().parents[3] / "packaging" / "integrations" / "kamailio"
CLIENT: Final = INTEGRATION / "sbc_edge_hook.py"


def load() -> ModuleType:
    """A fresh copy of the client, importing what the tests' own interpreter has."""
    spec = importlib.util.spec_from_file_location("sbc_edge_hook", CLIENT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, {"SBC_EDGE_PYTHON_PATH": ""}):
        spec.loader.exec_module(module)
    return module
