"""URLs of Redis and Valkey: what is read from them, and what is refused, with what was given and expected."""

from pathlib import Path

import pytest

from peerjob.model.errors import OptionError
from peerjob.store.drivers import LUA_SCHEMES
from peerjob.store.lua.client.address import Address, SentinelSettings, Tls, parse_address
from peerjob.store.url import Host


def test_a_url_is_taken_apart() -> None:
    assert parse_address("rediss://bob:s%3Ac%2Ft@db.example:7000/3") == Address(
        url="rediss://bob:***@db.example:7000/3",
        scheme="redis",
        hosts=(Host("db.example", 7000),),
        db=3,
        username="bob",
        password="s:c/t",
        tls=Tls(),
    )
    local = (Host("localhost", 6379),)
    assert parse_address("valkey://") == Address(url="valkey://", scheme="valkey", hosts=local)
    glide = Address(url="valkey+glide://", scheme="valkey", library="glide", hosts=local)
    assert parse_address("valkey+glide://") == glide
    assert parse_address("redis://[::1]:7000").hosts == (Host("::1", 7000),)
    assert parse_address("redis://h?db=4").db == parse_address("redis://h/4?db=4").db == 4


def test_a_cluster_has_several_members() -> None:
    several = parse_address("valkeys://a,b:7000,[::1]:3,[::2]?cluster=true")
    assert several.cluster
    assert several.hosts == (Host("a", 6379), Host("b", 7000), Host("::1", 3), Host("::2", 6379))


def test_a_socket_has_a_path() -> None:
    for url in ("redis+unix:///run/my%20redis.sock?db=2", "valkey+unix:///run/my%20redis.sock?db=2"):
        address = parse_address(url)
        assert (address.socket, address.hosts, address.db) == ("/run/my redis.sock", (), 2)
    assert parse_address("unix://me:pw@/s").password == "pw"


def test_sentinels_have_a_primary_and_credentials_of_their_own() -> None:
    url = "valkeys+sentinel://u:p@s1,s2:1/mymaster?db=2&sentinel_username=watch&sentinel_password=a%26b%40c"
    address = parse_address(url)
    assert (address.scheme, address.username, address.password, address.db) == ("valkey", "u", "p", 2)
    assert address.hosts == (Host("s1", 26379), Host("s2", 1))
    assert address.sentinel == SentinelSettings(primary="mymaster", username="watch", password="a&b@c", tls=True)
    assert address.url == url.replace("u:p@", "u:***@").replace("a%26b%40c", "***")
    plain = parse_address("rediss+sentinel://s/mymaster?sentinel_tls=false")
    assert plain.tls
    assert plain.sentinel
    assert not plain.sentinel.tls


def test_tls_has_options_and_those_of_redis_py(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).touch()
    files = (tmp_path / "ca", tmp_path / "cert", tmp_path / "key")
    ours = "rediss://h?ca_certs={}&cert_file={}&key_file={}&ssl_cert_reqs=none".format(*files)
    theirs = "rediss://h?ssl_ca_certs={}&ssl_certfile={}&ssl_keyfile={}&ssl_cert_reqs=none".format(*files)
    expected = Tls(ca_certs=files[0], cert_file=files[1], key_file=files[2], verify=False)
    assert parse_address(ours).tls == parse_address(theirs).tls == expected
    renamed = parse_address("valkeys://h?ssl_check_hostname=false")
    assert renamed.tls == Tls(check_hostname=False)
    # valkey-glide checks everything or nothing
    assert parse_address("valkeys+glide://h?ssl_cert_reqs=none&ssl_check_hostname=false").tls == Tls(
        verify=False, check_hostname=False
    )


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://h:port", "ports from 1"),
        ("redis://h:70000", "ports from 1"),
        ("redis://h:0", "ports from 1"),
        ("redis://a,b:0?cluster=true", "ports from 1"),
        ("redis://h:\uff16379", "ports from 1"),
        ("redis://::1:6379", r"\[2001:db8::1\]:port"),
        ("redis://[::1]x:6379", r"\[2001:db8::1\]:port"),
        ("redis://a b", "a host before and after each comma"),
        ("redis://a%2Fb", "a host before and after each comma"),
        ("redis:6379", ":// after its scheme"),
        ("redis://h/2#3", "without #"),
        ("redis://h#", "without #"),
        ("redis://h/9999999999", "number of a database"),
        ("redis://h/" + "9" * 5_000, "number of a database"),
        ("redis://h/٣", "number of a database"),
        ("redis://h?db=9999999999", "number from 0"),
        ("redis://h?db=" + "9" * 5_000, "an int"),
        ("redis://h?db=1_0", "an int"),
        ("redis://h?db=+1", "an int"),
        ("redis://h?db=1&db=2", "the option 'db' once"),
        ("redis://h?cluster=true&cluster=false", "the option 'cluster' once"),
        ("redis://:%ff@h", "text in UTF-8"),
        ("redis://:\ud800@h", "text in UTF-8"),
        ("redis+unix:///%ff", "text in UTF-8"),
        ("redis+sentinel://h/m?sentinel_password=%ff", "text in UTF-8"),
        ("redis://a,,b?cluster=true", "before and after each comma"),
        ("redis://h/first", "number of a database"),
        ("redis://h/1?db=2", "one database"),
        ("redis://h?db=-1", "number from 0"),
        ("redis://h?db=first", "an int"),
        ("redis://h/1?cluster=true", "database 0"),
        ("redis://h?cluster=perhaps", "true or false"),
        ("redis://h?clutser=true", "one of cluster, db"),
        ("redis://a,b", r"cluster=true for a cluster, or redis\+sentinel://"),
        ("rediss://a,b", r"rediss\+sentinel://"),
        ("valkeys+glide://a,b", r"valkeys\+glide\+sentinel://"),
        ("valkeys+glide://h?ssl_check_hostname=false", r"valkeys:// in place of valkey-glide"),
        ("valkeys+glide+sentinel://h/m?ssl_check_hostname=false", r"valkeys\+sentinel:// in place of valkey-glide"),
        ("redis://h?ca_certs=/etc/hosts", "one of"),
        ("rediss://h?ca_certs=/no/such/file", "a file at /no/such/file"),
        ("rediss://h?cert_file=/etc/hosts", "cert_file and key_file together"),
        ("rediss://h?ca_certs=/etc/hosts&ssl_ca_certs=/etc/passwd", "not both"),
        ("rediss://h?ssl_cert_reqs=maybe", "required or none"),
        ("redis+unix://h/run/redis.sock", r"redis\+unix:///run/redis.sock"),
        ("unix://", "the absolute path"),
        ("redis+unix:///s?cluster=true", "one of"),
        ("redis+sentinel://s", r"the name of the primary .* redis\+sentinel://sentinel:26379/mymaster"),
        ("redis+sentinel://s/mymaster/2", "the name of the primary"),
        ("redis+sentinel://s/mymaster?cluster=true", "one of"),
        ("redis+sentinel://s/mymaster?sentinel_tls=true", "one of"),
        ("redis://h?sentinel_username=me", "one of"),
        ("redis://h?durability=always", "aof or replicas"),
        ("redis://h?durability=replicas", "aof or replicas"),
        ("redis://h?durability=replicas:0", "aof or replicas"),
        ("valkey://h?durability=replicas:-1", "aof or replicas"),
        ("redis://h?durability=aof&durability_timeout=0", "more than 0"),
        ("redis://h?durability=aof&durability_timeout=soon", "durability_timeout"),
        ("redis://h?durability=aof&durability_timeout=2h", "at most 60"),
        ("redis://h?durability_timeout=1s", "durability too"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, wanted: str) -> None:
    with pytest.raises(OptionError, match=wanted) as caught:
        parse_address(url)
    assert str(caught.value.given)[:100].encode(errors="backslashreplace").decode() in str(caught.value)


def test_a_line_break_after_a_url_is_ignored() -> None:
    """A file that holds a URL often ends with one."""
    assert parse_address("redis://h\n").hosts == (Host("h", 6379),)
    assert parse_address("redis://h/2\n").db == 2


def test_an_address_in_ipv6_can_have_a_zone() -> None:
    assert parse_address("redis://[fe80::1%25eth0]:1").hosts == (Host("fe80::1%eth0", 1),)


def test_each_scheme_can_be_read() -> None:
    for scheme in LUA_SCHEMES:
        rest = "/s" if "unix" in scheme else "h/mymaster" if "sentinel" in scheme else "h"
        address = parse_address(f"{scheme}://{rest}")
        assert (address.scheme == "valkey") == scheme.startswith("valkey")
        assert (address.library == "glide") == ("glide" in scheme)
        assert (address.tls is not None) == scheme.partition("+")[0].endswith(("rediss", "valkeys"))
