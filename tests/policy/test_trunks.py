"""Whose call it is: the longest prefix wins, and answers are remembered within a bound."""

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from agent.policy.trunks import CACHE_MAX, UNKNOWN, AddressBook, Network, Networks, Trunk


def trunk(name: str) -> Trunk:
    return Trunk(name, "", name, "1", trust_asserted_identity=False)


def book(**sources: str) -> AddressBook:
    trunks: dict[Network, Trunk] = {ip_network(text): trunk(name) for name, text in sources.items()}
    return AddressBook(trunks, Networks([ip_network("198.51.100.1/32")]))


def sender(addresses: AddressBook, address: str) -> str | None:
    found = addresses.sender(address)
    return None if found is None else found.id


def test_the_longest_prefix_wins_whatever_the_order() -> None:
    addresses = book(wide="192.0.2.0/24", narrow="192.0.2.8/29", host="192.0.2.9/32", v6="2001:db8::/32")
    assert sender(addresses, "192.0.2.1") == "wide"
    assert sender(addresses, "192.0.2.10") == "narrow"
    assert sender(addresses, "192.0.2.9") == "host"
    assert sender(addresses, "2001:db8::9") == "v6"


def test_nobody_and_nonsense_are_unknown_and_the_sbc_itself_is_none() -> None:
    addresses = book(peer="192.0.2.0/24")
    assert addresses.sender("203.0.113.1") is UNKNOWN
    assert addresses.sender("no address") is UNKNOWN
    assert addresses.sender("198.51.100.1") is None


def test_a_mapped_address_is_the_address_that_it_carries() -> None:
    assert sender(book(peer="192.0.2.0/24"), "::ffff:192.0.2.5") == "peer"


def test_a_scan_of_addresses_does_not_grow_the_memory() -> None:
    addresses = book(peer="192.0.2.0/24")
    for i in range(CACHE_MAX + 10):
        addresses.sender(f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}")
    assert len(addresses._cache) <= CACHE_MAX


NETWORKS = st.lists(
    st.tuples(st.integers(0, 255), st.integers(24, 32)).map(
        lambda t: ip_network((0xC0000200 | t[0], t[1]), strict=False)
    ),
    max_size=12,
)


@given(NETWORKS, st.integers(0, 255))
def test_look_up_equals_trying_every_network(networks: list[Network], last: int) -> None:
    from ipaddress import ip_address

    address = ip_address(0xC0000200 | last)
    holding = [n for n in networks if address in n]
    expected = max(holding, key=lambda n: n.prefixlen) if holding else None
    assert Networks(networks).longest(str(address)) == expected


def test_the_sbc_may_name_trunk_and_customer_and_a_name_that_nobody_knows_says_nothing() -> None:
    networks: dict[Network, Trunk] = {ip_network("192.0.2.0/24"): trunk("a"), ip_network("203.0.113.0/24"): trunk("b")}
    addresses = AddressBook(networks, Networks([ip_network("198.51.100.1/32")]), frozenset({"customer-1"}))
    named = addresses.named("192.0.2.1", "b", "customer-1")
    assert named is not None
    assert (named.id, named.customer, named.upstream) == ("b", "customer-1", "b")
    assert addresses.named("192.0.2.1", "nobody", "nobody") is addresses.sender("192.0.2.1")
    assert addresses.named("198.51.100.1", "b", "") is addresses.sender("203.0.113.1"), "a name beats the address"
    assert addresses.named("198.51.100.1", "", "customer-1") is None, "what the SBC itself sends stays its own"
    assert addresses.sender("203.0.113.1") is networks[ip_network("203.0.113.0/24")], "and nothing was changed by it"
