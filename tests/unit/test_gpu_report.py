"""The page with pictures: whole in itself, says everything, and shows hostile names without harm."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from gpu_shadow.cli import shadow
from gpu_shadow.compare import Comparison, Margins, compare, merged
from gpu_shadow.pictures import COLUMNS, HALF, Axis, columns, histogram, shown
from gpu_shadow.report import FIGURES, report
from gpu_shadow.said import Said, Source
from gpu_shadow.tally import ZERO
from gpu_shadow.tasks import TASKS

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=y>', "</title></svg><b>", "a\x00\u202eb\ud800"]
VOID = {"meta", "br"}


class Page(HTMLParser):
    """What a browser would make of it: tags that are open, texts, and whatever it would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.said: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)


def part(
    seed: int, n: int = 400, *, task: str = "classification", labels: tuple[str, ...] = ("a", "b")
) -> Comparison:
    chance = torch.Generator().manual_seed(seed)
    stable = torch.randn(n, 6, generator=chance)
    again, canary = (stable + sd * torch.randn(n, 6, generator=chance) for sd in (1e-3, 0.05))
    slices = [labels[at % len(labels)] for at in range(n)]
    labels = stable.argmax(1) if task == "classification" else None
    ids = [f"r{seed}-{at}" for at in range(n)]
    return compare(stable, again, canary, ids, slices=slices, labels=labels, task=task)


def said(comparison: Comparison, **margins: float) -> Said:
    source = Source(role="canary", name="models/canary.safetensors", sha256="ab" * 32)
    return Said.of(comparison, Margins(task=comparison.task, **margins), sources=(source,))


def test_the_verdict_comes_first_and_then_all_that_is_known() -> None:
    page = Page(report(said(part(1), max_flips=0.03)))
    text = " ".join(page.said)
    places = [text.index(word) for word in ("Inconclusive", "not decided", "Answers that differ", "How far")]
    assert places == sorted(places)
    for word in (
        "noise floor",
        "Which classes became which",
        "Accuracy",
        "stable has 100 % right",
        "Slices",
        "r1-",
        "ab" * 32,
        "margin",
        "JS divergence",
    ):
        assert word in text
    assert not page.open


def test_nothing_is_loaded_and_nothing_runs() -> None:
    page = Page(report(said(part(1))))
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "a", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in {"src", "href"}]
    assert "url(" not in report(said(part(1)))
    assert "default-src 'none'" in report(said(part(1)))


def test_each_picture_has_a_title_words_and_a_table() -> None:
    text = report(said(part(1)))
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 4 + 10  # the excess, the loss, calibration, the slices, ten figures
    for one in pictures:
        drawn = ET.fromstring(one)
        named = [drawn.find(f".//*[@id='{ref}']") for ref in drawn.get("aria-labelledby", "").split()]
        assert drawn.get("role") == "img"
        assert [bool(each is not None and each.text) for each in named] == [True, True]
    assert text.count("As a table") == len(pictures)
    ids = re.findall(r'id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_the_page_of_merged_parts_is_that_of_the_whole() -> None:
    parts = [part(seed) for seed in range(4)]
    one = report(said(merged("classification", parts)))
    other = report(
        said(merged("classification", [Comparison.from_json(each.to_json()) for each in parts[::-1]]))
    )
    assert one == other
    assert "1600 requests" in one


def test_names_labels_and_ids_are_shown_and_do_nothing() -> None:
    whole = part(1, labels=tuple(HOSTILE))
    said_of = part(1).to_json() | {
        "slices": whole.to_json()["slices"],
        "worst": [[1.5, name] for name in HOSTILE],
        "figures": {name: next(iter(whole.to_json()["figures"].values())) for name in HOSTILE},
        "mismatches": HOSTILE[:3],
        "mismatched": 1,
        "failures": HOSTILE[:3],
        "failed": 1,
    }
    sources = tuple(Source(role="canary", name=name, sha256=name) for name in HOSTILE)
    found = Said.of(Comparison.from_json(said_of), Margins(), sources=sources)
    text = report(found)
    page = Page(text)
    assert not {"script", "img", "b"} & set(page.tags)
    assert not page.open
    assert HOSTILE[0] in page.said
    assert "\\u202e" in text
    assert not {"\x00", "\u202e"} & set(text)
    text.encode()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_page_and_every_figure_a_name_for_people(task: str) -> None:
    found = part(1, task=task)
    assert set(found.figures) <= set(FIGURES)
    assert FIGURES[next(iter(found.figures))] in report(said(found)).replace("&#x27;", "'")


def test_of_nothing_there_is_a_page_as_well() -> None:
    text = report(said(Comparison(task="classification")))
    assert "NoData" in text
    assert "No request was compared" in text
    assert not Page(text).open


def test_columns_hold_every_request_once_and_are_few() -> None:
    canary, again = {ZERO: 5, -9000: 1, -3: 2, 40: 7}, {-8500: 3}
    found = columns(canary, again)
    assert len(found) <= COLUMNS + 1
    assert sum(one.canary for one in found) == 15
    assert sum(one.again for one in found) == 3
    assert found[0].high == 0
    assert all(one.high <= other.low * 1.0001 for one, other in pairwise(found))
    assert columns({}, {}) == []
    assert columns({7: 2}, {})[0].canary == 2


def test_a_histogram_without_a_noise_floor_has_no_lower_half() -> None:
    one, both = (histogram("x", "t", "w", columns({7: 2}, again)) for again in ({}, {3: 1}))
    assert "stable again" in both
    assert "stable again" not in one
    heights = [float(re.findall(r'height="(\d+)" role', each)[0]) for each in (one, both)]
    assert heights[0] < 0.7 * heights[1]


def test_each_side_of_a_histogram_is_as_high_as_its_own_highest_column() -> None:
    """On a CPU stable's second answers are often all the same: the canary's were lines of five pixels."""
    text = histogram("x", "t", "w", columns({2: 30, 3: 40, 4: 30}, {ZERO: 100}))
    drawn = re.findall(r'<rect class="(canary|again)"[^>]* height="([0-9.]+)"', text)
    assert [side for side, height in drawn if float(height) == HALF] == ["again", "canary"]
    assert "canary; full height is 40 % of requests" in text
    assert "stable again; full height is 100 %" in text
    alone = histogram("x", "t", "w", columns({ZERO: 9}, {ZERO: 9}))
    assert all(float(wide) < 12 for wide in re.findall(r'<rect[^>]* width="([0-9.]+)%"', alone))


def test_a_bar_s_words_are_read_where_the_margin_s_line_crosses_them() -> None:
    text = report(said(part(1)))
    assert '<text class="over"' in text
    assert "svg .over{paint-order:stroke;stroke:var(--paper)" in text


def test_an_axis_has_a_few_round_ticks() -> None:
    assert [round(tick, 6) for tick in Axis(0, 0.047).ticks()] == [0, 0.01, 0.02, 0.03, 0.04]
    for high in (1e-9, 0.3, 1.0, 7.7, 123456.0):
        assert 2 <= len(list(Axis(-high / 3, high).ticks())) <= 7
    assert Axis(0, 1).at(-5) < Axis(0, 1).at(0.5) < Axis(0, 1).at(5)


def test_text_without_end_is_cut() -> None:
    assert len(shown("x" * 10**6)) < 1000


def test_the_command_writes_it_beside_the_finding(tmp_path: Path) -> None:
    answers = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    save_file({"output": answers}, tmp_path / "s")
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    arguments = [
        "compare",
        str(tmp_path / "s"),
        str(tmp_path / "s"),
        "--json",
        str(out),
        "--report",
        str(page),
    ]
    assert CliRunner().invoke(shadow, arguments).exit_code == 0
    found = json.loads(out.read_text())
    assert [one["role"] for one in found["sources"]] == ["stable", "canary"]
    assert found["sources"][0]["sha256"] in page.read_text()
    assert found["why"][0] in page.read_text()
    refused = CliRunner().invoke(shadow, [*arguments[:3], "--report", str(tmp_path)])
    assert refused.exit_code == 2
    assert "--report" in refused.stderr
    assert "is a folder" in refused.stderr
