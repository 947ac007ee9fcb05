"""Which addresses alerts may go to."""

import pytest

from controller.receivers import allowed, literal

PUBLIC = ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
NEAR = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",  # carriers' NAT, which some clouds use for pods
    "169.254.169.254",  # a cloud's metadata
    "192.0.0.192",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",  # a cloud's metadata
    "ff02::1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",  # 169.254.169.254 behind NAT64
    "2002:7f00:1::",  # 127.0.0.1 by 6to4
    "168.63.129.16",  # what steers Azure's machines
    "::ffff:168.63.129.16",
    "64:ff9b::a83f:8110",
    "64:ff9b:1::a00:1",  # 10.0.0.1 behind an operator's own NAT64
    "64:ff9b:1:fffe::808:808",
    "fec0::1",  # local to a site
    "5f00::1",  # a segment of an operator's network
    "3fff::1",  # for documents
    "192.88.99.1",  # the nearest 6to4 relay
    "::10.0.0.1",  # IPv4-compatible
    "::ffff:0:a00:1",  # IPv4-translated
    "2001:0:a00:1::f7f7:f7f7",  # Teredo by 10.0.0.1 to 8.8.8.8
    "2001:0:808:808::f5ff:fffe",  # Teredo by 8.8.8.8 to 10.0.0.1
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert allowed("").address(address)


@pytest.mark.parametrize("address", NEAR)
def test_near_addresses_are_not_unless_their_network_is(address: str) -> None:
    assert not allowed("").address(address)
    assert not allowed("10.9.0.0/16,fd99::/16,localhost").address(address)
    assert allowed("0.0.0.0/0,::/0").address(address)


def test_one_network_lets_in_no_other() -> None:
    some = allowed(" 10.1.0.0/16, 127.0.0.1 ,fd00:1::/32 ")
    assert [some.address(text) for text in ("10.1.2.3", "127.0.0.1", "fd00:1::5", "::ffff:10.1.2.3")] == [
        True
    ] * 4
    assert not any(map(some.address, ("10.2.0.1", "127.0.0.2", "fd00:2::5")))


def test_hosts_are_allowed_by_name_or_by_how_they_end() -> None:
    some = allowed("alerts.monitoring.svc,*.corp.example")
    assert some.host("alerts.monitoring.svc")
    assert some.host("Alerts.Monitoring.svc.")
    assert some.host("a.corp.example")
    assert some.host("a.b.corp.example")
    assert not any(
        map(some.host, ("corp.example", "evilcorp.example", "monitoring.svc", "a.corp.example.evil", ""))
    )


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/99", "a b", "*", "http://a", "a/b", "*.*", "-a"])
def test_what_is_neither_name_nor_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        allowed(text)


def test_an_address_is_told_from_a_name() -> None:
    assert all(map(literal, ("127.0.0.1", "::1", "fe80::1%eth0", "127.1", "2130706433")))
    assert not any(map(literal, ("localhost", "1.example", "0x7f000001")))
    assert not any(map(allowed("0.0.0.0/0").address, ("127.1", "2130706433", "0177.0.0.1", "")))
