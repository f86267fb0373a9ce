"""The disk cache as the event loop sees it: a thread of its own reads and writes; what waits for it is bounded.

Trouble with the disk never reaches a call: it is counted, and said in words for as long as it lasts.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from agent.stir.disk import DiskCache
from agent.stir.stored import Stored

WRITES_MAX: Final = 512
"""Certificates that wait to be written, some 2 MB. What is beyond is fetched again after a restart."""

PATIENCE: Final = 1.0
"""Seconds for the disk to answer; then the certificate is fetched."""


class DiskKeeper:
    """Between `start` and `stop` certificates are kept; else nothing is found and nothing stored."""

    def __init__(self, disk: DiskCache) -> None:
        self.trouble = ""
        self._disk = disk
        self._waiting: dict[str, Stored] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._writer: asyncio.Task[None] | None = None
        self._read = self._errors = self._dropped = 0

    async def start(self) -> None:
        """Take stock of what is there. Trouble with the disk is no error."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="certificates-disk")
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().run_in_executor(self._thread, self._disk.open)
        except OSError as error:  # TimeoutError is one
            self._failed(error)

    async def stop(self, grace: float) -> None:
        """Write what waits, within `grace` seconds."""
        if self._writer is not None:
            await asyncio.wait({self._writer}, timeout=grace)
            self._writer.cancel()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    def has(self, url: str) -> bool:
        """Whether something may be stored of that URL."""
        return url in self._waiting or url in self._disk

    async def read(self, url: str) -> Stored | None:
        """What is stored of that URL; None if nothing is, or nothing that can be read."""
        if (waiting := self._waiting.get(url)) is not None:
            return waiting
        if self._thread is None:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                stored = await asyncio.get_running_loop().run_in_executor(self._thread, self._disk.read, url)
        except TimeoutError as error:
            self._failed(error)
            return None
        self._read += stored is not None
        return stored

    def put(self, stored: Stored) -> None:
        """Have it written. Returns at once."""
        if self._thread is None:
            return
        if len(self._waiting) >= WRITES_MAX and stored.source not in self._waiting:
            self._dropped += 1
            return
        self._waiting[stored.source] = stored
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(self._thread), name="certificates-disk")

    def counters(self) -> Mapping[str, int]:
        """Files and bytes are what is there now."""
        return {
            "certificates_disk_files": len(self._disk),
            "certificates_disk_bytes": self._disk.bytes,
            "certificates_disk_read": self._read,
            "certificates_disk_errors": self._errors,
            "certificates_disk_dropped": self._dropped,
            "certificates_disk_evictions": self._disk.evictions,
            "certificates_disk_corrupt": self._disk.corrupt,
        }

    async def _write(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            url, stored = next(iter(self._waiting.items()))
            try:
                await loop.run_in_executor(thread, self._disk.write, stored)
                self.trouble = ""
            except OSError as error:
                self._failed(error)
            if self._waiting.get(url) is stored:  # else a newer one came meanwhile
                del self._waiting[url]

    def _failed(self, error: OSError) -> None:
        self._errors += 1
        self.trouble = "the disk does not answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
