"""Whose address a request is counted and audited under: proxies are believed, others are not."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import addresses

TRUSTED = (addresses.network("10.0.0.0/8"), addresses.network("2001:db8:ffff::/48"), addresses.network("192.0.2.1"))


def scope(peer: str | None, *headers: tuple[str, str], scheme: str = "http") -> Any:
    return {
        "client": None if peer is None else (peer, 40000),
        "scheme": scheme,
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }


def forwarded(*values: str) -> list[tuple[str, str]]:
    return [("X-Forwarded-For", value) for value in values]


@pytest.mark.parametrize(
    ("peer", "headers", "address"),
    [
        pytest.param("203.0.113.5", [], "203.0.113.5", id="no proxy"),
        pytest.param("203.0.113.5", forwarded("198.51.100.1"), "203.0.113.5", id="not a proxy that is trusted"),
        pytest.param("10.0.0.1", [], "10.0.0.1", id="a proxy for itself"),
        pytest.param("10.0.0.1", forwarded("198.51.100.1"), "198.51.100.1", id="one hop"),
        pytest.param("10.0.0.1", forwarded("6.6.6.6, 198.51.100.1"), "198.51.100.1", id="what the client wrote first"),
        pytest.param("10.0.0.1", forwarded("198.51.100.1, 10.2.3.4, 192.0.2.1"), "198.51.100.1", id="several proxies"),
        pytest.param("10.0.0.1", forwarded("6.6.6.6", "198.51.100.1, 10.9.9.9"), "198.51.100.1", id="several lines"),
        pytest.param("10.0.0.1", forwarded("10.2.3.4, 10.1.1.1"), "10.2.3.4", id="all of them proxies"),
        pytest.param("10.0.0.1", forwarded("6.6.6.6, nonsense"), "10.0.0.1", id="no address"),
        pytest.param("10.0.0.1", forwarded(""), "10.0.0.1", id="empty"),
        pytest.param("10.0.0.1", forwarded("6.6.6.6, bad, 10.9.9.9"), "10.9.9.9", id="no address beyond a proxy"),
        pytest.param("10.0.0.1", forwarded("198.51.100.1:5123"), "198.51.100.1", id="with a port"),
        pytest.param("10.0.0.1", forwarded("[2001:db8::7]:5123"), "2001:db8::7", id="IPv6 with a port"),
        pytest.param("2001:db8:ffff::1", forwarded("2001:db8::7"), "2001:db8::7", id="IPv6"),
        pytest.param("::ffff:10.0.0.1", forwarded("198.51.100.1"), "198.51.100.1", id="IPv4 in IPv6"),
        pytest.param("10.0.0.1", forwarded("::ffff:198.51.100.1"), "198.51.100.1", id="IPv4 in IPv6, told"),
        pytest.param("10.0.0.1", [("Forwarded", "for=6.6.6.6")], "10.0.0.1", id="the other kind is not read"),
        pytest.param("10.0.0.1", [("X-Real-IP", "6.6.6.6")], "10.0.0.1", id="nor any other"),
        pytest.param(None, [], "unknown", id="gone already"),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_no_trusted_proxy(
    peer: str | None, headers: list[tuple[str, str]], address: str
):
    assert addresses.of(scope(peer, *headers), TRUSTED) == address


def test_nobody_is_believed_by_default():
    asked = scope("127.0.0.1", ("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-Proto", "https"))
    assert addresses.of(asked, ()) == "127.0.0.1"
    assert not addresses.is_secure_scope(asked, ())


@pytest.mark.parametrize(
    ("peer", "said", "scheme", "secure"),
    [
        ("10.0.0.1", ["https"], "http", True),
        ("10.0.0.1", ["HTTPS"], "http", True),
        ("10.0.0.1", ["http"], "http", False),
        ("10.0.0.1", ["https, http"], "http", False),
        ("10.0.0.1", ["http", "https"], "http", True),
        ("10.0.0.1", [], "http", False),
        ("203.0.113.5", ["https"], "http", False),
        ("203.0.113.5", [], "https", True),
        (None, ["https"], "http", False),
    ],
)
def test_tls_is_what_the_connection_has_or_a_trusted_proxy_says(
    peer: str | None, said: list[str], scheme: str, *, secure: bool
):
    headers = [("X-Forwarded-Proto", value) for value in said]
    assert addresses.is_secure_scope(scope(peer, *headers, scheme=scheme), TRUSTED) == secure


@pytest.mark.parametrize("text", ["", "proxy.example", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0-10.0.0.9", "*"])
def test_a_trusted_proxy_is_an_address_or_a_network(text: str):
    with pytest.raises(ValueError, match=r".+"):
        addresses.network(text)
