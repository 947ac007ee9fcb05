"""What one controller process is told, by flags and `SERIN_*` variables; checked once, then fixed.

A flag wins over its variable. `--lease-name` and `SERIN_LEASE_NAME` are the same setting.
"""

import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from controller.receivers import ONLY_PUBLIC, Allowed, allowed

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
# A Service called "serin" makes the kubelet set SERIN_PORT=tcp://10.0.0.1:80 and its kin in every pod
# of the namespace that does not switch service links off. None of that was meant for us.
_LINK = re.compile(r"SERIN_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
_LINKED = re.compile(r"(tcp|udp|sctp)://")
_YES, _NO = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


class BadSetting(ValueError):
    """A setting cannot be used; the text names it, its value, where that came from and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the process may be told."""

    kubeconfig: Path | None = None  # None: the pod's service account, else kubectl's usual places
    context: str | None = None
    namespace: str | None = None  # None: all namespaces
    lease_name: str = "serin-controller"
    lease_namespace: str = "serin-system"
    identity: str = "serin"
    tick: timedelta = timedelta(seconds=1)
    checkpoint: timedelta = timedelta(seconds=10)
    scrape_interval: timedelta = timedelta(seconds=1)
    scrape_timeout: timedelta = timedelta(seconds=0.5)
    prometheus_url: str | None = None  # None: checks that name it are refused
    prometheus_interval: timedelta = timedelta(seconds=15)
    shadow_url: str | None = None  # None: Shadow checks are refused
    shadow_recorder: str | None = None  # None: port 8080 of the worker's host
    shadow_percent: float = 100.0  # of requests that are mirrored to it
    receivers: Allowed = ONLY_PUBLIC  # where alerts may go
    freeze: bool = False  # no raise and no promotion anywhere; weights may still fall
    bind: str = "127.0.0.1"
    port: int = 8080
    log_format: str = "auto"
    log_level: str = "info"

    @property
    def recorder(self) -> Mapping[str, Any] | None:
        """`host` and `port` of the recorder, as the mesh knows it, and the `percent` of requests for it.

        None without a shadow worker.
        """
        if self.shadow_url is None:
            return None
        host, _, port = (self.shadow_recorder or f"{urlsplit(self.shadow_url).hostname}:8080").rpartition(":")
        return {"host": host, "port": int(port), "percent": self.shadow_percent}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How one field of `Settings` is read and explained."""

    field: str
    read: Callable[[str], Any]
    expected: str  # completes "expected ..."
    help: str

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "SERIN_" + self.field.upper()


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError
    return text


def _namespace(text: str) -> str | None:
    return None if text == "*" else _name(text)


def _file(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ValueError
    return path


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


def _server(text: str) -> str:
    """An HTTP server's address without secrets: it is shown in status and Events."""
    url = urlsplit(text)
    odd = url.username or url.password or url.query or url.fragment or url.port == 0
    if url.scheme not in {"http", "https"} or not url.hostname or odd:
        raise ValueError
    return text


def _host_and_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not _NAME.fullmatch(host) or not 0 < int(port) <= 65535:
        raise ValueError
    return text


def _percent(text: str) -> float:
    value = float(text.removesuffix("%"))
    if not 0 < value <= 100:
        raise ValueError
    return value


def _yes_or_no(text: str) -> bool:
    if text.lower() not in _YES | _NO:
        raise ValueError
    return text.lower() in _YES


def _port(text: str) -> int:
    if not 0 <= int(text) <= 65535:
        raise ValueError
    return int(text)


def _between(low: str, high: str) -> Callable[[str], timedelta]:
    """Reads durations from `low` to `high`."""

    def read(text: str) -> timedelta:
        from controller.wire import duration  # brings numpy along; only a running controller pays

        value = duration(text)
        if not duration(low) <= value <= duration(high):
            raise ValueError
        return value

    return read


def _one_of(*words: str) -> Callable[[str], str]:
    """Reads one of `words`."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return read


SETTINGS = (
    Setting(
        field="kubeconfig",
        read=_file,
        expected="the path of a kubeconfig file that exists",
        help="How to reach the API server. Default: the pod's service account, else kubectl's own default.",
    ),
    Setting(
        field="context",
        read=_text,
        expected="the name of a context in the kubeconfig",
        help="Context of the kubeconfig. Default: its current one.",
    ),
    Setting(
        field="namespace",
        read=_namespace,
        expected='a namespace, or "*" for all',
        help="Look at this namespace only. Default: all of them.",
    ),
    Setting(
        field="lease_name",
        read=_name,
        expected="the name of a Lease (lower-case letters, digits, '-' and '.')",
        help="Of all replicas with one Lease one steers, the others stand by. Default: serin-controller.",
    ),
    Setting(
        field="lease_namespace",
        read=_name,
        expected="a namespace",
        help="Where the Lease lives. Default: serin-system.",
    ),
    Setting(
        field="identity",
        read=_text,
        expected="a name that no other replica has (a pod's name will do)",
        help="Who we are in the Lease. Default: the host's name and a random suffix.",
    ),
    Setting(
        field="tick",
        read=_between("100ms", "1m"),
        expected='a duration from 100ms to 1m, such as "1s"',
        help="How often each run is looked at. Default: 1s.",
    ),
    Setting(
        field="checkpoint",
        read=_between("1s", "5m"),
        expected='a duration from 1s to 5m, such as "10s"',
        help="How often evidence is saved to the run's status. Default: 10s.",
    ),
    Setting(
        field="scrape_interval",
        read=_between("100ms", "1m"),
        expected='a duration from 100ms to 1m, such as "1s"',
        help="How often each pod's metrics are read. Default: 1s.",
    ),
    Setting(
        field="scrape_timeout",
        read=_between("50ms", "30s"),
        expected='a duration from 50ms to 30s, such as "500ms"',
        help="How long a pod may take to answer. Default: 500ms.",
    ),
    Setting(
        field="prometheus_url",
        read=_server,
        expected='a URL without user and password, such as "http://prometheus.monitoring:9090"',
        help="The Prometheus that is asked for checks with source.prometheus. Default: none.",
    ),
    Setting(
        field="prometheus_interval",
        read=_between("1s", "5m"),
        expected='a duration from 1s to 5m, such as "15s"',
        help="How often that Prometheus scrapes the pods (its scrape_interval). Default: 15s.",
    ),
    Setting(
        field="shadow_url",
        read=_server,
        expected='a URL without user or password, as "http://serin-shadow.serin-system.svc.cluster.local:8081"',
        help="Where the shadow worker answers; it replays requests for Shadow checks. Default: none.",
    ),
    Setting(
        field="shadow_recorder",
        read=_host_and_port,
        expected='host and port, such as "serin-shadow.serin-system.svc.cluster.local:8080"',
        help="Where Istio mirrors requests to. Default: the shadow URL's host, port 8080.",
    ),
    Setting(
        field="shadow_percent",
        read=_percent,
        expected='a percentage above 0 and up to 100, such as "10"',
        help="How many percent of the requests are mirrored for Shadow checks. Default: 100.",
    ),
    Setting(
        field="receivers",
        read=allowed,
        expected='names and networks, such as "hooks.ops.svc.cluster.local,*.example.net,10.1.0.0/16"',
        help="Hosts and networks that alerts may go to although they are not public. Default: none.",
    ),
    Setting(
        field="freeze",
        read=_yes_or_no,
        expected='"true" or "false"',
        help="true: nothing is raised or promoted anywhere; weights may still fall. Default: false.",
    ),
    Setting(
        field="bind",
        read=_text,
        expected='an address of this machine, such as "127.0.0.1"',
        help="Address for probes, metrics and runs; a pod needs 0.0.0.0. Default: 127.0.0.1.",
    ),
    Setting(
        field="port",
        read=_port,
        expected="a port from 0 (any free one) to 65535",
        help="Port for probes, metrics and runs. Default: 8080.",
    ),
    Setting(
        field="log_format",
        read=_one_of("auto", "json", "console"),
        expected='"auto", "json" or "console"',
        help="auto: console on a terminal, JSON elsewhere. Default: auto.",
    ),
    Setting(
        field="log_level",
        read=_one_of("debug", "info", "warning", "error"),
        expected='"debug", "info", "warning" or "error"',
        help="Least important level that is logged. Default: info.",
    ),
)


def read(flags: Mapping[str, str | None], environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings that flags (by field) and variables give; raises `BadSetting`."""
    environ = {name: text for name, text in environ.items() if not _linked(name, text)}
    _unknown(environ)
    values: dict[str, Any] = {"identity": f"{socket.gethostname()}_{secrets.token_hex(4)}"}
    for setting in SETTINGS:
        flag, variable = flags.get(setting.field), environ.get(setting.variable)
        if flag is not None:
            values[setting.field] = _value(setting, flag, origin=setting.flag)
        elif variable:  # an empty variable is an unset one, as in shells
            values[setting.field] = _value(setting, variable, origin=setting.variable)
    return _consistent(Settings(**values))


def _value(setting: Setting, text: str, *, origin: str) -> Any:
    try:
        return setting.read(text)
    except ValueError:
        raise BadSetting(f'{origin} is "{text}": expected {setting.expected}') from None


def _linked(name: str, text: str) -> bool:
    """Whether the kubelet set this variable for a Service, not somebody for us."""
    if name == "SERIN_PORT":
        return _LINKED.match(text) is not None
    return _LINK.fullmatch(name) is not None


def _unknown(environ: Mapping[str, str]) -> None:
    """Refuses a `SERIN_*` variable that nobody reads: a misspelt freeze must not look like one."""
    known = {setting.variable for setting in SETTINGS}
    for name in sorted(environ):
        if name.startswith("SERIN_") and name not in known:
            raise BadSetting(
                f"{name} is not a setting: unset it, or correct it to one of {', '.join(sorted(known))}"
            )


def _consistent(settings: Settings) -> Settings:
    """Settings that make sense together, or `BadSetting`."""
    if settings.scrape_timeout > settings.scrape_interval:
        raise BadSetting(
            f"scrape-timeout is {settings.scrape_timeout.total_seconds():g}s and scrape-interval"
            f" {settings.scrape_interval.total_seconds():g}s: a read would overlap the next;"
            " make --scrape-timeout the shorter one"
        )
    if settings.shadow_recorder is not None and settings.shadow_url is None:
        raise BadSetting(
            f"shadow-recorder is {settings.shadow_recorder} and shadow-url is not set: nobody would be asked"
            " what it recorded; set --shadow-url as well"
        )
    if settings.checkpoint < settings.tick:
        raise BadSetting(
            f"checkpoint is {settings.checkpoint.total_seconds():g}s and tick"
            f" {settings.tick.total_seconds():g}s: nothing new could be saved;"
            " make --checkpoint at least as long as --tick"
        )
    return settings
