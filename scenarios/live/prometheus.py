"""A real Prometheus (Debian's) that scrapes the lab's pods once a second."""

import json
import signal
from asyncio.subprocess import Process
from collections.abc import Mapping
from pathlib import Path
from shutil import which

from scenarios.live import processes

PORT = 8080  # of the pods' pages


class Prometheus:
    """`flags` are what a controller is told of it, which may be before it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = processes.free_port()
        self._process: Process | None = None
        url = f"http://127.0.0.1:{self._port}"
        self.flags = {"--prometheus-url": url, "--prometheus-interval": "1s"}

    async def start(self) -> None:
        """It runs; whom it scrapes is told by `scrape`."""
        program = which("prometheus")
        if program is None:
            raise RuntimeError("no Prometheus here: apt-get install --no-install-recommends prometheus")
        pods = {"files": ["pods.json"], "refresh_interval": "1s"}
        job = {"job_name": "pods", "file_sd_configs": [pods]}
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "900ms"}, "scrape_configs": [job]}
        self._folder.mkdir()
        file = self._folder / "prometheus.yml"
        file.write_text(json.dumps(config))  # JSON is YAML
        argv = (
            program,
            f"--config.file={file}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
        )
        self._process = await processes.start(argv, log=self._folder / "log")

    def scrape(self, pods: Mapping[str, str], *, namespace: str) -> None:
        """From now on these pods are scraped; addresses by name."""
        said = [
            {"targets": [f"{ip}:{PORT}"], "labels": {"namespace": namespace, "pod": name}}
            for name, ip in pods.items()
        ]
        part = self._folder / "pods.part"
        part.write_text(json.dumps(said))
        part.replace(self._folder / "pods.json")

    def strike(self, sign: signal.Signals) -> None:
        """It is killed, or frozen."""
        if self._process is not None:
            processes.tell(self._process, sign)

    async def stop(self) -> None:
        """It is gone."""
        await processes.end(self._process)
