"""What is known of URLs, in memory: bounded, and good certificates apart from everything else."""

from agent.identity.model import Credential, Unreachable
from agent.stir.cache import Cache, Entry

GOOD = Credential(None, "1234", "CN=Issuer", 0.0, 1.0, "ab" * 32)
BAD = Credential(None, "", "", 0.0, 0.0, "", "no anchor of trust")


def entry(answer: Credential | Unreachable = GOOD, host: str = "certs.example.net", size: int = 1000) -> Entry:
    return Entry(host, answer, bytes(size), 1.0, 1.0, 1.0)


def test_least_recently_used_goes_first() -> None:
    cache = Cache(3, 1 << 20)
    for url in "abc":
        cache.put(url, entry())
    cache.get("a")
    cache.put("d", entry())
    assert [url for url, _ in cache.items()] == ["c", "a", "d"]
    assert cache.evictions == 1


def test_bytes_are_bounded_too() -> None:
    cache = Cache(100, 3500)
    for url in "abcde":
        cache.put(url, entry())
    assert (cache.good, cache.bytes) == (3, 3000)
    cache.put("f", entry(size=4000))  # larger than everything together
    assert (cache.good, cache.bytes) == (0, 0)


def test_replaced_and_discarded_entries_give_their_bytes_back() -> None:
    cache = Cache(100, 1 << 20)
    cache.put("a", entry(size=1000))
    cache.put("a", entry(size=10))
    assert cache.bytes == 10
    cache.put("a", entry(BAD, size=20))
    assert (cache.good, cache.others, cache.bytes) == (0, 1, 20)
    cache.discard("a")
    cache.discard("a")
    assert (cache.others, cache.bytes) == (0, 0)
    assert cache.get("a") is None


def test_failures_push_out_each_other_and_no_certificate() -> None:
    cache = Cache(3, 1 << 20, failures_max=10)
    for url in "abc":
        cache.put(url, entry())
    for n in range(1000):
        cache.put(f"bad-{n}", entry(Unreachable("404 Not Found") if n % 2 else BAD))
    assert (cache.good, cache.others, cache.evictions) == (3, 10, 990)
    assert all(cache.get(url) for url in "abc")


def test_host_is_known_while_it_has_a_good_certificate() -> None:
    cache = Cache(2, 1 << 20)
    cache.put("a", entry(host="a.example"))
    cache.put("x", entry(BAD, host="x.example"))
    assert [cache.knows_host(host) for host in ("a.example", "x.example")] == [True, False]
    cache.put("a", entry(BAD, host="a.example"))
    assert not cache.knows_host("a.example")
    for url in "bcd":
        cache.put(url, entry(host=f"{url}.example"))
    assert [cache.knows_host(f"{url}.example") for url in "bcd"] == [False, True, True]
