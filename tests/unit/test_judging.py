"""Figures for people, and how long they may stand."""

from datetime import UTC, datetime

import pytest
from test_gather import begun, stepping

from analysis.judge import Judgement, Verdict
from analysis.values import replace
from controller import judging
from controller.gather import Gathered
from controller.judging import FIGURES, Figures, judged
from controller.model import Run

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def worked_out(monkeypatch: pytest.MonkeyPatch) -> list[Judgement]:
    """What figures were worked out of; each time other ones."""
    seen: list[Judgement] = []

    def with_figures(found: Judgement, _run: Run, _gathered: Gathered) -> Judgement:
        seen.append(found)
        checks = (replace(one, canary_requests=len(seen)) for one in found.checks)
        return replace(found, checks=tuple(checks))

    monkeypatch.setattr(judging, "with_figures", with_figures)
    return seen


def test_among_many_runs_figures_stand_for_a_while_beside_evidence_that_is_of_now(
    worked_out: list[Judgement],
) -> None:
    run = stepping()
    gathered, figures = begun(run), Figures()
    found = judged(run, gathered, NOW)
    said = []
    for second in (100, 110, 120, 100 + FIGURES):
        found = replace(found, checks=tuple(replace(one, log_e=second) for one in found.checks))
        said.append(figures.of(found, run, gathered, now=float(second), lasting=FIGURES))
    assert [one.checks[0].canary_requests for one in said] == [1, 1, 1, 2]
    assert [one.checks[0].log_e for one in said] == [100, 110, 120, 100 + FIGURES]
    assert len(worked_out) == 2


def test_a_verdict_that_changed_has_figures_of_its_own_and_among_few_runs_every_look_has(
    worked_out: list[Judgement],
) -> None:
    run = stepping()
    gathered, figures = begun(run), Figures()
    found = judged(run, gathered, NOW)
    figures.of(found, run, gathered, now=100.0, lasting=FIGURES)
    passed = replace(found, checks=tuple(replace(one, verdict=Verdict.PASS) for one in found.checks))
    assert figures.of(passed, run, gathered, now=101.0, lasting=FIGURES).checks[0].canary_requests == 2
    assert figures.of(passed, run, gathered, now=102.0, lasting=0.0).checks[0].canary_requests == 3
    assert len(worked_out) == 3
