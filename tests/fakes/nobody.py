"""Programs run as user nobody, with the capabilities that a test says and no others."""

import shutil
import subprocess
import sys
from typing import Final

import pytest

from tests.conftest import ROOT

_USER: Final = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def as_nobody(*capabilities: str) -> list[str]:
    """A Python with our packages, as the service manager would start it: `capabilities` ("net_raw") are ambient.

    Skips the test where user nobody may run no such Python: that of somebody's home cannot be read by others.
    """
    if not shutil.which("setpriv"):
        pytest.skip("setpriv is not installed (util-linux)")
    sets = ",".join(("-all", *(f"+{name}" for name in capabilities)))
    command = [*_USER, f"--inh-caps={sets}", f"--ambient-caps={sets}", f"--bounding-set={sets}"]
    packages = ":".join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))])
    for python in (sys.executable, "/usr/bin/python3"):
        whole = [*command, "env", f"PYTHONPATH={packages}", "PYTHONDONTWRITEBYTECODE=1", python]
        tried = [*whole, "-c", "import agent.kernel.nft"]
        if subprocess.run(tried, capture_output=True, check=False, cwd="/").returncode == 0:
            return whole
    pytest.skip("user nobody may run no Python that has our packages")
