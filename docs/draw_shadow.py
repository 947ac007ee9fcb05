"""Draws docs/shadow.svg: a model beside itself in bfloat16, as a page of `serin shadow compare` shows it.

`make picture`. Every number in the picture is computed here.
"""
# ruff: noqa: INP001
# (a script, not a package)

from pathlib import Path

import torch
from torch import Tensor, nn

from gpu_shadow.compare import Margins, compare
from gpu_shadow.finding import percent
from gpu_shadow.pictures import Bar, columns, histogram, intervals
from gpu_shadow.report import STYLE
from gpu_shadow.said import Said

HERE = Path(__file__).parent
WIDTH, HIGH = 760, 330
N, FEATURES, CLASSES = 20_000, 64, 10
MARGIN = 0.01


@torch.no_grad()
def answered(model: nn.Module, asked: Tensor, size: int) -> Tensor:
    """The model's answers in batches of this size."""
    return torch.cat([model(some) for some in torch.split(asked, size)]).float()


def said() -> Said:
    """What is said of the two."""
    torch.manual_seed(20)
    model = nn.Sequential(nn.Linear(FEATURES, 128), nn.ReLU(), nn.Linear(128, CLASSES))
    asked = torch.randn(N, FEATURES)
    stable, again = (answered(model, asked, size) for size in (256, 7))
    canary = answered(model.bfloat16(), asked.bfloat16(), 256)
    found = compare(stable, again, canary, [str(place) for place in range(N)])
    return Said.of(found, Margins(max_flips=MARGIN))


def drawn(found: Said) -> str:
    """The picture as SVG."""
    overall, name = found.finding.overall, "max_delta"
    if overall is None:
        raise ValueError("nothing was compared: there is nothing to draw")
    of, noise = found.comparison.figures[name], found.comparison.floor[name]
    bar = Bar(
        label=f"{percent(overall.flips)} of {overall.requests} answers differ; the excess, and what may",
        ends=overall.interval,
        point=overall.excess,
        floor=overall.floor,
    )
    first = intervals("excess", "The excess", found.finding.why[0], [bar], margin=MARGIN)
    told = "largest difference of a score, stable's own in other batches below"
    second = histogram("moved", told.capitalize(), told, columns(of.buckets, noise.buckets))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HIGH}" role="img" '
        f'font-family="system-ui, sans-serif">\n<title>{found.finding.why[0]}</title>\n'
        f'<style>{STYLE}</style>\n<rect class="paper" width="{WIDTH}" height="{HIGH}" rx="8"/>\n'
        f'<g transform="translate(0 18)">{first}</g>\n'
        f'<g transform="translate(0 118)">{second}</g>\n</svg>\n'
    )


def main() -> None:
    """The picture is drawn."""
    (HERE / "shadow.svg").write_text(drawn(said()))


if __name__ == "__main__":
    main()
