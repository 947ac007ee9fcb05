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
_PROTOCOLS = IPv4Network("192.0.0.0/24")  # RFC 6890; a cloud's metadata, and Python calls it global
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: its last four bytes are an IPv4 address


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
            found = _plain(ip_address(text.partition("%")[0]))
        except ValueError:  # "127.1" and its like, which some take for an address
            return False
        public = found.is_global and not found.is_multicast and found not in _PROTOCOLS
        return public or any(found in network for network in self.networks)

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


def _plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where packets to it would end there."""
    if isinstance(address, IPv4Address):
        return address
    within = address.ipv4_mapped or address.sixtofour
    return IPv4Address(address.packed[-4:]) if address in _NAT64 else within or address


def _dots(name: str) -> list[int]:
    return [at for at, character in enumerate(name) if character == "."]
