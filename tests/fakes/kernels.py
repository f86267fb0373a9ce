"""The kernel beneath the tests, for what older ones have not."""

import os
from typing import Final

KERNEL: Final = tuple(int(number) for number in os.uname().release.split(".")[:2])
"""(6, 1), for example."""
