"""Which addresses a certificate may be fetched from (RFC 6890)."""

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.stir.addresses import SPECIAL_IPV4, SPECIAL_IPV6, read_network, why_not

PUBLIC = (
    "8.8.8.8",
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2003::1",
    "2606:4700::1111",
    "2a00::1",
    "3ffe:ffff::1",
)

# Where the table of one Python or another says "global" (it changed within 3.11), and a stranger's certificate must
# still not come from. All of it is in the registries of RFC 6890, or is no unicast address at all.
GLOBAL_FOR_SOME_PYTHON = (
    "192.0.0.9",  # Port Control Protocol anycast
    "192.0.0.10",  # TURN anycast
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.175.48.1",
    "224.0.0.1",
    "233.252.0.1",
    "::ffff:8.8.8.8",
    "::8.8.8.8",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::1",
    "100:0:0:1::1",
    "2002:808:808::1",
    "2620:4f:8000::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fec0::1",
    "ff0e::1",
)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_may_be_connected_to(address: str) -> None:
    assert why_not(address) == ""


@pytest.mark.parametrize(("text", "what"), SPECIAL_IPV4 + SPECIAL_IPV6)
def test_first_and_last_address_of_every_special_network_are_refused(text: str, what: str) -> None:
    network = ip_network(text)
    for address in (network[0], network[-1]):
        assert why_not(str(address)).startswith("is of "), (address, what)


def test_reason_names_the_network_and_the_rfc() -> None:
    assert why_not("169.254.169.254") == "is of 169.254.0.0/16 (link local, RFC 3927)"
    assert why_not("::ffff:127.0.0.1") == "is of ::ffff:0:0/96 (IPv4-mapped, RFC 4291)"
    assert why_not("fe80::1%eth0") == "is link local, RFC 4007"
    assert why_not("4000::1") == "is not of 2000::/3 (global unicast, RFC 4291)"
    assert why_not("localhost") == "is no address"
    assert why_not("") == "is no address"


@pytest.mark.parametrize("address", GLOBAL_FOR_SOME_PYTHON)
def test_table_refuses_what_is_global_for_some_python(address: str) -> None:
    assert why_not(address)


@given(
    st.one_of(
        st.ip_addresses(v=4),
        st.ip_addresses(v=6),
        *(st.ip_addresses(network=n) for n, _ in SPECIAL_IPV4 + SPECIAL_IPV6),
    )
)
def test_nothing_passes_that_is_not_global_for_python(address: IPv4Address | IPv6Address) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert why_not(str(address))


@given(st.ip_addresses(v=4))
def test_every_spelling_of_an_ipv4_address_in_ipv6_is_refused(address: IPv4Address) -> None:
    for spelling in (f"::ffff:{address}", f"64:ff9b::{address}", f"::{address}"):
        assert why_not(spelling)


def test_networks_that_are_allowed_are_taken() -> None:
    lab = [read_network("127.0.0.0/8"), read_network("fd00::/8"), read_network("192.0.2.7")]
    for address in ("127.0.0.1", "fd00::1", "192.0.2.7", "8.8.8.8"):
        assert why_not(address, lab) == ""
    for address in ("192.0.2.8", "10.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert why_not(address, lab)


def test_allowed_nat64_prefix_does_not_open_the_private_addresses_behind_it() -> None:
    nat64 = [read_network("64:ff9b::/96")]
    assert why_not("64:ff9b::8.8.8.8", nat64) == ""
    assert why_not("64:ff9b::10.0.0.1", nat64) == "is of 10.0.0.0/8 (private use, RFC 1918)"
    assert why_not("64:ff9b::10.0.0.1", [*nat64, read_network("10.0.0.0/8")]) == ""


def test_allowed_loopback_of_ipv6_needs_no_ipv4_network() -> None:
    assert why_not("::1", [read_network("::1")]) == ""


@given(st.text())
def test_any_text_gets_an_answer(text: str) -> None:
    assert isinstance(why_not(text), str)


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "example.net", "::/129"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_network(text)
