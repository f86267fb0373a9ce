"""Which URLs a certificate may be fetched from (ATIS-1000074 5.3.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.x5u import MAX_URL, Location, check_url, locate

PORTS = (443, 8443)


@pytest.mark.parametrize(
    "url",
    [
        "https://certs.example.net/sti/1234.pem",
        "https://certs.example.net:443/sti/1234.pem",
        "https://certs.example.net:8443/sti/1234.pem",
        "HTTPS://CERTS.EXAMPLE.NET/1.PEM",
        "https://certs.example.net",
        "https://certs.example.net/",
        "https://sti_cr.example.net/a%20b/~c/d.e,f=g:h@i!j$k&l'(m)*n+o-p",
        "https://xn--bcher-kva.example/1.pem",
        "https://192.0.2.7/1.pem",
        "https://[2001:db8::7]:8443/1.pem",
        "https://localhost/1.pem",
    ],
)
def test_url_of_a_certificate_repository_is_taken(url: str) -> None:
    assert check_url(url, PORTS) == ""


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "URL is not https"),
        ("certs.example.net/1.pem", "URL is not https"),
        ("http://certs.example.net/1.pem", "URL is not https"),
        ("file:///etc/passwd", "URL is not https"),
        (" https://certs.example.net/1.pem", "URL is not https"),
        ("https:/certs.example.net/1.pem", "URL is not https"),
        ("https://certs.example.net:8080/1.pem", "port 8080 of the URL is not 443 or 8443"),
        ("https://certs.example.net:22/1.pem", "port 22 of the URL is not 443 or 8443"),
        ("https://certs.example.net:0/1.pem", "port 0 of the URL is not 443 or 8443"),
        ("https://certs.example.net:/1.pem", "port of the URL is no number from 1 to 65535"),
        ("https://certs.example.net:443443/1.pem", "port of the URL is no number from 1 to 65535"),
        ("https://certs.example.net:+443/1.pem", "port of the URL is no number from 1 to 65535"),
        ("https://someone@certs.example.net/1.pem", "URL has user information"),
        ("https://certs.example.net@evil.example/1.pem", "URL has user information"),
        ("https://a:b@certs.example.net/1.pem", "URL has user information"),
        ("https://certs.example.net/1.pem?a=b", "URL has a query"),
        ("https://certs.example.net/1.pem?", "URL has a query"),
        ("https://certs.example.net?", "URL has a query"),
        ("https://certs.example.net/1.pem#", "URL has a fragment"),
        ("https://certs.example.net/1.pem#top", "URL has a fragment"),
        ("https://certs.example.net/a;b=c/1.pem", "URL has path parameters"),
        ("https://certs.example.net/1.pem;", "URL has path parameters"),
        ("https:///1.pem", "host of the URL is neither a host name nor an address"),
        ("https://.example.net/1.pem", "host of the URL is neither a host name nor an address"),
        ("https://certs.example.net./1.pem", "host of the URL is neither a host name nor an address"),
        ("https://-a.example.net/1.pem", "host of the URL is neither a host name nor an address"),
        ("https://certs;x.example.net/1.pem", "host of the URL is neither a host name nor an address"),
        ("https://%6cocalhost/1.pem", "host of the URL is neither a host name nor an address"),
        (f"https://{'a' * 64}.example.net/1.pem", "host of the URL is neither a host name nor an address"),
        (f"https://{'a.' * 130}net/1.pem", "host name of the URL is longer than 253 characters"),
        ("https://2130706433/1.pem", "host of the URL is a number, but no IPv4 address"),
        ("https://0x7f000001/1.pem", "host of the URL is a number, but no IPv4 address"),
        ("https://0177.0.0.1/1.pem", "host of the URL is a number, but no IPv4 address"),
        ("https://127.1/1.pem", "host of the URL is a number, but no IPv4 address"),
        ("https://127.0.0.0x1/1.pem", "host of the URL is a number, but no IPv4 address"),
        ("https://[::g]/1.pem", "host of the URL is neither a host name nor an address"),
        ("https://[:::]/1.pem", "host of the URL is no IPv6 address"),
        ("https://[fe80::1%25eth0]/1.pem", "host of the URL is neither a host name nor an address"),
        ("https://2001:db8::7/1.pem", "host of the URL is neither a host name nor an address"),
        ("https://certs.example.net/a b", "URL holds a character that must be escaped"),
        ("https://certs.example.net/1.pem\r\nHost: evil.example", "URL holds a character that must be escaped"),
        ("https://certs.example.net/1.pem\n", "URL holds a character that must be escaped"),
        ("https://certs.example.net/1.pem\0", "URL holds a character that must be escaped"),
        ("https://certs.example.net\\@evil.example/", "URL holds a character that must be escaped"),
        ("https://bücher.example/1.pem", "URL holds a character that must be escaped"),
        ("https://certs.example.net/%", "URL has a wrong escape"),
        ("https://certs.example.net/%zz", "URL has a wrong escape"),
        ("https://certs.example.net/" + "a" * MAX_URL, f"URL is longer than {MAX_URL} characters"),
    ],
)
def test_url_is_refused_for_the_right_reason(url: str, why: str) -> None:
    assert check_url(url, PORTS) == why


def test_ports_are_those_of_the_settings() -> None:
    assert check_url("https://certs.example.net:9443/", (443, 9443)) == ""
    assert check_url("https://certs.example.net:8443/", (443, 9443)) == "port 8443 of the URL is not 443 or 9443"
    assert check_url("https://certs.example.net:443/", ()) == "port 443 of the URL is not absent"


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("https://certs.example.net/1.pem", Location("certs.example.net", 443, "/1.pem")),
        ("https://certs.example.net", Location("certs.example.net", 443, "/")),
        ("https://certs.example.net:8443/a/../b%2f", Location("certs.example.net", 8443, "/a/../b%2f")),
        ("https://[2001:db8::7]:8443/", Location("2001:db8::7", 8443, "/")),
    ],
)
def test_location_is_as_written(url: str, location: Location) -> None:
    assert locate(url) == location


def test_url_without_the_form_has_no_location() -> None:
    with pytest.raises(ValueError, match="not https"):
        locate("http://certs.example.net/")


@given(st.one_of(st.text(), st.text(alphabet="https:/.[]@;?#%a0f-").map(lambda rest: f"https://{rest}")))
def test_any_text_gets_an_answer(url: str) -> None:
    why = check_url(url, PORTS)
    if why:
        assert why.isprintable()
    else:
        host, port, target = locate(url)
        assert host
        assert port in PORTS
        assert target.startswith("/")
        assert url.lower().startswith("https://")
        assert not set(url) & set("#?;\\ \r\n\t")
