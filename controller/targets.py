"""Which of a run's pods are read, and where: what their annotations and a policy name, as a URL.

Pure. A pod decides what stands on its page, and not whose page is read.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_address

from controller.model import Page, PodSeen
from controller.policies import STRAIGHT, astray
from controller.receivers import plain

MOST_STABLE = 20  # stable pods read for a run: their noise averages out, the reading adds up
PORT = "8080"
LONGEST_PATH = 512  # characters, as a policy's path


def chosen(pods: Iterable[PodSeen], *, limit: int = MOST_STABLE) -> list[PodSeen]:
    """At most `limit` of the pods, by the hash of their names: the same ones whoever asks.

    A pod that comes or goes changes the choice by one at most.
    """
    return sorted(
        sorted(pods, key=lambda pod: (hashed(pod.name), pod.name))[:limit], key=lambda pod: pod.name
    )


def addressed(pods: Sequence[PodSeen]) -> list[PodSeen]:
    """Those whose page is their own: of several at one address the one that was made last has it."""
    last = {_address(pod): pod for pod in sorted(pods, key=lambda pod: (pod.created, pod.name))}
    return [pod for pod in pods if not pod.ip or last[_address(pod)] is pod]


def _address(pod: PodSeen) -> tuple[str, str]:
    return pod.ip, pod.annotations.get("prometheus.io/port", PORT)


def target(pod: PodSeen, page: Page = Page()) -> str:  # noqa: B008 - a frozen value
    """The URL of the pod's metrics page; raises `ValueError` if its annotations make none."""

    def said(name: str, default: str) -> str:
        return pod.annotations.get(f"prometheus.io/{name}", "") or default

    scheme, port = said("scheme", "http"), str(page.port or said("port", PORT))
    path = page.path or said("path", "/metrics")
    if scheme not in {"http", "https"}:
        raise ValueError(f'annotation prometheus.io/scheme is "{scheme}": say http or https')
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f'annotation prometheus.io/port is "{port}": say a port number')
    if len(path) > LONGEST_PATH:
        raise ValueError(
            f"annotation prometheus.io/path has {len(path)} characters: say {LONGEST_PATH} at most"
        )
    if astray(path):
        raise ValueError(
            f'the path of the metrics page is "{ascii(path)[1:-1]}" (prometheus.io/path, or the check\'s'
            f" source.scrape.path): {STRAIGHT}"
        )
    if not pod.ip:
        raise ValueError("the pod has no IP address yet")
    if not _of_a_pod(pod.ip):
        raise ValueError(f"its address {pod.ip} is no pod's: see who wrote that into its status")
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    return f"{scheme}://{host}:{port}/{path.removeprefix('/')}"


# Where clouds' metadata are in IPv6, within the networks that pods have addresses of: AWS and Google.
METADATA = frozenset(map(ip_address, ("fd00:ec2::254", "fd20:ce::254")))


@lru_cache(maxsize=4096)
def _of_a_pod(ip: str) -> bool:
    """Whether a pod can have this address, however it is written; a cloud's metadata has a link-local one."""
    try:
        found = ip_address(ip)
    except ValueError:
        return False
    return found not in METADATA and not any(
        one.is_link_local or one.is_multicast or one.is_unspecified for one in {found, *plain(found)}
    )


def hashed(name: str) -> int:
    """32 bits that look like chance even for pod-1, pod-2, ... (a CRC's do not)."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest())
