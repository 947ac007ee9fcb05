"""Neighbours, CKA and aligned distance, held to loops and to scipy."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from scipy.spatial import procrustes
from scipy.spatial.distance import cdist
from torch import Tensor

from gpu_shadow import neighbours
from gpu_shadow.cli import shadow
from gpu_shadow.neighbours import NEAREST, alike, compared, sampled


def vectors(n: int = 120, d: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double() + 0.5


def rotation(d: int = 8) -> Tensor:
    return torch.linalg.qr(vectors(d, d, 7))[0]


def looped(x: np.ndarray, y: np.ndarray) -> float:
    """The mean Jaccard overlap of nearest neighbours, vector by vector."""
    near = []
    for each in (x, y):
        apart = cdist(each, each, "cosine")
        np.fill_diagonal(apart, np.inf)
        near.append([set(np.argsort(row)[:NEAREST]) for row in apart])
    return float(np.mean([len(a & b) / len(a | b) for a, b in zip(*near, strict=True)]))


@pytest.mark.parametrize("noise", [0.0, 0.1, 3.0])
def test_it_is_what_the_loops_and_scipy_say(noise: float) -> None:
    x = vectors()
    y = x @ rotation() * 3 + noise * vectors(seed=1)
    found = alike(x, y)
    assert found.overlap == pytest.approx(looped(x.numpy(), y.numpy()), abs=1e-12)
    assert found.aligned == pytest.approx(procrustes(x.numpy(), y.numpy())[2], abs=1e-9)
    k, ell = (each @ each.T for each in (x - x.mean(0), y - y.mean(0)))
    hsic = [float((one * other).sum()) for one, other in ((k, ell), (k, k), (ell, ell))]
    assert found.cka == pytest.approx(hsic[0] / (hsic[1] * hsic[2]) ** 0.5, rel=1e-9)


def test_a_space_that_was_turned_round_and_scaled_is_the_same() -> None:
    found = alike(vectors(), 5 * vectors() @ rotation())
    assert found.overlap == pytest.approx(1)
    assert found.cka == pytest.approx(1)
    assert found.aligned == pytest.approx(0, abs=1e-9)


def test_vectors_that_have_nothing_to_do_with_each_other_share_what_chance_gives() -> None:
    found = alike(vectors(500), vectors(500, seed=1))
    assert found.overlap < 3 * NEAREST / 500
    assert found.cka < 0.1
    assert found.aligned > 0.8


def test_vectors_that_are_all_alike_have_no_shape() -> None:
    assert alike(torch.ones(50, 3).double(), vectors(50, 3)).cka == 0
    json.dumps(alike(torch.ones(50, 3).double(), torch.ones(50, 3).double()).cka, allow_nan=False)


def test_the_sample_depends_on_the_ids_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "SAMPLE", 40)
    ids = [f"r{place}" for place in range(200)]
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1)).tolist()
    moved = [ids[place] for place in order]
    assert [ids[at] for at in sampled(ids)] == [moved[at] for at in sampled(moved)]
    assert len(sampled(ids)) == 40
    x, y = vectors(200), vectors(200) + 0.1 * vectors(200, seed=1)
    one, other = compared(x, None, y, ids), compared(x[order], None, y[order], moved)
    assert one is not None
    assert other is not None
    assert one.requests == other.requests == 40
    assert one.canary.overlap == other.canary.overlap
    assert one.canary.cka == pytest.approx(other.canary.cka)


def test_what_is_not_finite_is_left_out_and_too_few_say_nothing() -> None:
    x, y = vectors(60), vectors(60)
    y[3] = float("nan")
    found = compared(x, x, y, [str(at) for at in range(60)])
    assert found is not None
    assert found.requests == 59
    assert found.floor is not None
    assert found.floor.overlap == 1
    assert compared(x[:20], None, y[:20], [str(at) for at in range(20)]) is None


def test_the_command_tells_it_beside_a_verdict_of_its_own(tmp_path: Path) -> None:
    """Turned round, every vector differs, and still nothing is lost."""
    save_file({"output": vectors(400)}, tmp_path / "s")
    save_file({"output": (vectors(400) @ rotation()).contiguous()}, tmp_path / "c")
    arguments = ["compare", str(tmp_path / "s"), str(tmp_path / "c"), "--again", str(tmp_path / "s")]
    told = CliRunner().invoke(shadow, [*arguments, "--task", "embedding", "--report", str(tmp_path / "page")])
    assert told.exit_code == 3
    said = "The canary's vectors (400): 100.0% of the 10 nearest are the same; linear CKA 1.0000; 0.00% apart"
    assert said in told.stdout
    assert "Stable's own second ones (400): 100.0%" in told.stdout
    assert "linear CKA 1.0000" in (tmp_path / "page").read_text()
    found = json.loads(CliRunner().invoke(shadow, [*arguments, "--task", "embedding", "--json", "-"]).stdout)
    assert found["neighbours"]["requests"] == 400
    assert found["neighbours"]["canary"]["overlap"] == pytest.approx(1)
    assert json.loads(CliRunner().invoke(shadow, [*arguments, "--json", "-"]).stdout)["neighbours"] is None
