"""Headers of a request are read, refused as HTTP, or answered as what is not gRPC."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.http2.headers import HeaderList
from agent.rpc.request import read_request

GOOD: HeaderList = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/a.B/C"),
    (b":authority", b"x"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]


def test_a_request_says_its_method_its_deadline_and_its_metadata() -> None:
    request = read_request([*GOOD, (b"grpc-timeout", b"250m"), (b"key", b"v"), (b"key", b"w"), (b"b-bin", b"AAE,/w==")])
    assert (request.path, request.timeout, request.encoding) == (b"/a.B/C", 0.25, b"identity")
    assert request.metadata == (("key", b"v"), ("key", b"w"), ("b-bin", b"\0\x01,\xff"))
    assert (request.fault, request.http_status, request.unreadable) == ("", 200, "")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9), (b"99999999S", 99_999_999)],
)
def test_a_timeout_has_six_units(said: bytes, seconds: float) -> None:
    assert read_request([*GOOD, (b"grpc-timeout", said)]).timeout == pytest.approx(seconds)


@pytest.mark.parametrize("said", [b"", b"1", b"S", b"1s", b"-1S", b"100000000S", b"1.5S", b"1S ", b"\xb2S"])
def test_a_timeout_that_is_none_is_said_to_be_unreadable(said: bytes) -> None:
    request = read_request([*GOOD, (b"grpc-timeout", said)])
    assert request.timeout == inf
    assert request.unreadable or request.fault


@pytest.mark.parametrize(
    "headers",
    [
        [],
        GOOD[1:],
        GOOD[2:],
        [*GOOD[:2], (b":path", b"")],
        [*GOOD, (b":path", b"/late")],
        [GOOD[0], *GOOD],
        [(b":status", b"200"), *GOOD],
        [*GOOD, (b"Upper", b"case")],
        [*GOOD, (b"", b"nameless")],
        [*GOOD, (b"a b", b"v")],
        [*GOOD, (b"a", b"line\r\nbreak")],
        [*GOOD, (b"a", b"nul\0")],
        [*GOOD, (b"a", b" blank")],
        [*GOOD, (b"a", b"blank\t")],
        [*GOOD, (b"connection", b"close")],
        [*GOOD, (b"transfer-encoding", b"chunked")],
        [*GOOD[:5], (b"te", b"gzip")],
    ],
)
def test_what_http_forbids_is_a_fault(headers: HeaderList) -> None:
    assert read_request(headers).fault


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b":method", b"GET"), 405),
        ((b"content-type", b"text/html"), 415),
        ((b"content-type", b"application/grpcx"), 415),
        ((b"content-type", b"application/grpc+proto"), 200),
        ((b"content-type", b"application/grpc;charset=x"), 200),
    ],
)
def test_what_is_http_and_not_grpc_is_told_so_by_a_status_of_http(change: tuple[bytes, bytes], status: int) -> None:
    assert read_request([change if name == change[0] else (name, value) for name, value in GOOD]).http_status == status


def test_metadata_that_is_no_base64_is_named() -> None:
    assert read_request([*GOOD, (b"x-bin", b"!")]).unreadable == "x-bin is no base64"


NAMES = st.sampled_from([name for name, _ in GOOD]) | st.binary(max_size=8) | st.just(b"x-bin")


@given(st.lists(st.tuples(NAMES, st.binary(max_size=12)), max_size=10))
def test_any_headers_are_read_or_at_fault(headers: HeaderList) -> None:
    for request in (read_request(headers), read_request([*GOOD, *headers])):
        assert request.fault or request.path
