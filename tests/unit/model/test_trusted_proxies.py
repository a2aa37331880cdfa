"""The address of a caller behind proxies: only what a trusted proxy says counts."""

from typing import Any

import pytest

from peerjob.model import trusted_proxies
from peerjob.model.errors import OptionError
from peerjob.model.trusted_proxies import TrustedProxies, network_of

TRUSTED = TrustedProxies(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        # no proxy, or one that is not trusted: the header is worth nothing
        ("203.0.113.5", [], "203.0.113.5"),
        ("203.0.113.5", ["198.51.100.9"], "203.0.113.5"),
        ("192.0.2.8", ["198.51.100.9"], "192.0.2.8"),
        ("", ["198.51.100.9"], ""),
        ("unix:/x", ["198.51.100.9"], "unix:/x"),
        # the last address that is none of a trusted proxy; a caller may have written those before it
        ("10.1.2.3", ["198.51.100.9"], "198.51.100.9"),
        ("10.1.2.3", ["1.1.1.1, 198.51.100.9"], "198.51.100.9"),
        ("10.1.2.3", ["1.1.1.1", "198.51.100.9 , 192.0.2.7,10.9.9.9"], "198.51.100.9"),
        ("2001:db8::7", ["2a00:1450::5"], "2a00:1450::5"),
        ("::ffff:10.1.2.3", ["198.51.100.9"], "198.51.100.9"),
        ("10.1.2.3", ["::ffff:198.51.100.9"], "198.51.100.9"),
        # with a port
        ("10.1.2.3", ["198.51.100.9:4711"], "198.51.100.9"),
        ("10.1.2.3", ["[2a00:1450::5]:4711"], "2a00:1450::5"),
        # with a zone, which can be any text
        ("10.1.2.3", ["fe80::5%\x1b[31m"], "fe80::5"),
        # only proxies, or no header: the first of them
        ("10.1.2.3", [], "10.1.2.3"),
        ("10.1.2.3", [""], "10.1.2.3"),
        ("10.1.2.3", ["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        # no address: what is before it counts as little
        ("10.1.2.3", ["198.51.100.9, unknown"], "10.1.2.3"),
        ("10.1.2.3", ["198.51.100.9, <script>, 10.0.0.2"], "10.0.0.2"),
        ("10.1.2.3", ["198.51.100.9,,10.0.0.2"], "10.0.0.2"),
        ("10.1.2.3", ["x" * 100_000], "10.1.2.3"),
    ],
)
def test_the_caller_is_the_last_address_that_is_no_trusted_proxy(peer: str, forwarded: list[str], caller: str) -> None:
    assert TRUSTED.caller_of(peer, forwarded) == caller


def test_without_proxies_no_header_counts() -> None:
    assert TrustedProxies().caller_of("127.0.0.1", ["198.51.100.9"]) == "127.0.0.1"


@pytest.mark.parametrize(
    "given", ["", "proxy.example", "10.0.0.256", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8,::1", "*"]
)
def test_what_is_no_address_is_named(given: str) -> None:
    with pytest.raises(OptionError, match=r"^--trusted-proxy: expected an address or a network") as refused:
        TrustedProxies(["10.0.0.7", given], "--trusted-proxy")
    assert repr(given) in str(refused.value)


@pytest.mark.parametrize("given", ["::ffff:10.0.0.7", "::ffff:10.0.0.0/104"])
def test_a_proxy_in_the_form_of_ipv6_is_its_ipv4_address(given: str) -> None:
    trusted = TrustedProxies([given])
    assert [trusted.trusts(peer) for peer in ("10.0.0.7", "::ffff:10.0.0.7", "11.0.0.7")] == [True, True, False]


@pytest.mark.parametrize("given", ["0.0.0.0/0", "::/0", "::ffff:0:0/96"])
def test_all_addresses_are_no_proxy(given: str) -> None:
    with pytest.raises(OptionError, match="fewer than all addresses") as refused:
        TrustedProxies([given])
    assert given in str(refused.value)


@pytest.mark.parametrize("given", ["10.0.0.7", 7, [7], None])
def test_proxies_are_texts_in_a_list(given: Any) -> None:
    with pytest.raises(OptionError, match="trusted_proxies"):
        TrustedProxies(given)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::1"),
        ("unix:/x", "unix:/x"),
        ("", ""),
    ],
)
def test_an_ipv6_network_counts_as_one_caller(address: str, network: str) -> None:
    assert network_of(address) == network


def test_a_long_text_of_a_caller_is_not_kept() -> None:
    kept = trusted_proxies._parsed.cache_info().currsize  # pyright: ignore[reportPrivateUsage]
    for number in range(20):
        made_up = f"{'x' * 1_000}{number}"
        assert TRUSTED.caller_of("10.0.0.7", [made_up]) == "10.0.0.7"
        assert network_of(made_up) == made_up
    assert trusted_proxies._parsed.cache_info().currsize <= kept + 1  # pyright: ignore[reportPrivateUsage]
