"""A controller's store in a process of its own: says each tenth of a second in which term it leads.

python -m tests.controller.leading URL CONTROLLER
"""

import asyncio
import sys
import time

from controller.store import StoreSettings
from tests.controller.stores import opened


async def main() -> None:
    """Until killed."""
    async with opened(StoreSettings(postgresql=sys.argv[1]), sys.argv[2], time.time()) as store:
        while True:
            term = store.leadership.term()
            print(term.epoch if term else 0, flush=True)
            await asyncio.sleep(0.1)


asyncio.run(main())
