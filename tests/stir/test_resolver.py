"""Look-ups on threads: few of them, none that anybody must wait for."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from agent.stir.resolver import ADDRESSES_MAX, Resolver
from tests.fakes.waiting import until


class Slow:
    """A name service that answers when it is told to. Counts look-ups that run."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, host: str, port: int) -> list[str]:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.go.wait(30)
        with self._lock:
            self.running -= 1
        return [f"192.0.2.{port}"]


@pytest.fixture
def slow() -> Iterator[Slow]:
    service = Slow()
    yield service
    service.go.set()


def test_system_resolver_is_asked() -> None:
    addresses = asyncio.run(Resolver(2).resolve("localhost", 443))
    assert set(addresses) & {"127.0.0.1", "::1"}
    assert len(addresses) == len(set(addresses))


def test_address_needs_no_name_service() -> None:
    assert asyncio.run(Resolver(2).resolve("192.0.2.1", 443)) == ["192.0.2.1"]
    assert asyncio.run(Resolver(2).resolve("2001:db8::1", 443)) == ["2001:db8::1"]


def test_unknown_host_is_an_os_error() -> None:
    with pytest.raises(OSError, match=r"."):
        asyncio.run(Resolver(2).resolve("no-such-host.invalid", 443))


def test_odd_host_is_an_os_error() -> None:
    for host in ("a" * 64 + ".example", "\0", "a..b"):
        with pytest.raises(OSError, match=r"."):
            asyncio.run(Resolver(2).resolve(host, 443))


def test_answer_of_thousands_is_cut() -> None:
    def many(_host: str, _port: int) -> list[str]:
        return [f"198.51.{n // 256}.{n % 256}" for n in range(5000)]

    assert len(asyncio.run(Resolver(2, many).resolve("many.example", 443))) == ADDRESSES_MAX


def test_no_more_threads_than_places_and_all_get_their_answer(slow: Slow) -> None:
    async def main() -> list[list[str]]:
        resolver = Resolver(3, slow)
        tasks = [asyncio.create_task(resolver.resolve("host.example", n)) for n in range(20)]
        await until(lambda: slow.running == 3)
        slow.go.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [[f"192.0.2.{n}"] for n in range(20)]
    assert slow.most == 3


def test_place_of_a_look_up_that_nobody_waits_for_is_given_back_when_it_ends(slow: Slow) -> None:
    async def main() -> list[str]:
        resolver = Resolver(1, slow)
        task = asyncio.create_task(resolver.resolve("host.example", 1))
        await until(lambda: slow.running == 1)
        task.cancel()
        queued = asyncio.create_task(resolver.resolve("host.example", 2))
        given_up = asyncio.create_task(resolver.resolve("host.example", 3))
        await asyncio.sleep(0)
        given_up.cancel()
        slow.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await queued

    assert asyncio.run(main()) == ["192.0.2.2"]
    assert slow.most == 1


def test_answer_after_the_end_of_the_loop_harms_nobody(slow: Slow) -> None:
    async def main() -> None:
        task = asyncio.create_task(Resolver(1, slow).resolve("host.example", 1))
        await until(lambda: slow.running == 1)
        task.cancel()

    asyncio.run(main())
    threads = [thread for thread in threading.enumerate() if thread.name == "resolver"]
    slow.go.set()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_hung_resolver_does_not_keep_the_process_from_ending() -> None:
    program = """
import asyncio, threading
from agent.stir.resolver import Resolver
def hang(host, port):
    threading.Event().wait()
async def main():
    try:
        async with asyncio.timeout(0.05):
            await Resolver(1, hang).resolve("host.example", 443)
    except TimeoutError:
        print("gone")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=20)
    assert done.stdout.strip() == b"gone"
