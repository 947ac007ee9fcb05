"""The emulated API server as a process of its own: `python emulated.py KUBECONFIG`, until it is killed.

It is as bare as the suite takes it: no node, no kubelet. KUBECONFIG is there once it answers.
"""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from scenarios.cluster.kubelet import NoKubelet
from scenarios.world import World


async def serve(kubeconfig: Path) -> None:
    """It answers, and a kubeconfig says where."""
    world = World(clock=lambda: datetime.now(UTC), nodes=(), make_kubelet=NoKubelet)
    await world.serve()
    world.kubeconfig(kubeconfig.with_suffix(".part")).replace(kubeconfig)  # nobody reads half of it
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
