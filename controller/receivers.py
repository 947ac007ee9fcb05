"""Where alerts may go: to public addresses, and to what the controller's owner allows beside them.

A policy names the URL, and the controller stands where whoever wrote it may not: within the cluster's
network, beside a cloud's metadata. What counts is the address that is connected to, however it is
written, so a name that leads elsewhere the second time (DNS rebinding) gains nothing.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

FORBIDDEN = (
    "the receiver's address is not a public one; "
    "name another, or let the controller's owner allow it with --receivers (SERIN_RECEIVERS)"
)
_HOST = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
# What Python calls global and is not: RFC 6890's protocols, with a cloud's metadata; the address by which
# Azure's machines reach what steers them; IPv6 that was once local to a site (RFC 3879), names segments of an
# operator's own network (RFC 9602) or is for documents (RFC 9637); the nearest of all 6to4 relays (RFC 7526).
_NEAR = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv4Network("168.63.129.16/32"),
    IPv6Network("fec0::/10"),
    IPv6Network("5f00::/16"),
    IPv6Network("3fff::/20"),
)
# Networks of addresses whose last four bytes are an IPv4 one, which packets to them reach where somebody
# translates: NAT64 (RFC 6052), IPv4-translated (RFC 2765) and IPv4-compatible (RFC 4291).
_TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("::ffff:0:0:0/96"), IPv6Network("::/96"))
# An operator's own NAT64 (RFC 8215): where in it the IPv4 address stands, only the operator knows.
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")


@dataclass(frozen=True, slots=True)
class Allowed:
    """Hosts (`*.` for all names that end so) and networks that alerts may go to beside public addresses."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def host(self, name: str) -> bool:
        """Whether it is allowed by its name, wherever that leads."""
        name = name.lower().rstrip(".")
        return name in self.hosts or any(f"*{name[at:]}" in self.hosts for at in _dots(name))

    def address(self, text: str) -> bool:
        """Whether this address may be connected to."""
        try:
            written = ip_address(text.partition("%")[0])
        except ValueError:  # "127.1" and its like, which some take for an address
            return False
        found = plain(written)
        return all(map(_public, found)) or any(found[-1] in network for network in self.networks)

    def also(self, hosts: Collection[str]) -> "Allowed":
        """With these hosts as well."""
        return Allowed(self.hosts | set(hosts), self.networks)


ONLY_PUBLIC = Allowed()


def allowed(text: str) -> Allowed:
    """Names and networks, separated by commas; raises `ValueError`."""
    hosts: set[str] = set()
    networks: list[IPv4Network | IPv6Network] = []
    for part in filter(None, (part.strip().lower() for part in text.split(","))):
        try:
            networks.append(ip_network(part))
        except ValueError:
            if "/" in part or not _HOST.fullmatch(part):
                raise
            hosts.add(part)
    return Allowed(frozenset(hosts), tuple(networks))


def literal(host: str) -> bool:
    """Whether the host is an address itself, or looks like one, so that nobody resolves it."""
    return ":" in host or host.replace(".", "").isdigit()


def _public(address: Address) -> bool:
    """Whether this is somebody's address on the internet, as far as its number says."""
    near = any(address in network for network in (*_NEAR, _LOCAL_NAT64))
    return address.is_global and not address.is_multicast and not near


def plain(address: Address) -> tuple[Address, ...]:
    """Where packets to it may end: the IPv4 addresses that an IPv6 one stands for, or else itself.

    Of Teredo the server and last the client, which both get some.
    """
    if isinstance(address, IPv4Address):
        return (address,)
    if address.teredo:
        return address.teredo
    within = address.ipv4_mapped or address.sixtofour
    if within is None and any(address in network for network in _TRANSLATED) and int(address) > 1:
        within = IPv4Address(address.packed[-4:])  # "::" and "::1" are themselves
    return (within or address,)


def _dots(name: str) -> list[int]:
    return [at for at, character in enumerate(name) if character == "."]
