"""What the pages say and what the code does, held together where they could drift apart."""

import re
import runpy
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.evidence import SHARES, CheckKind
from controller import letters, machine, trigger
from controller.alerts import ATTEMPT_TIMEOUT, GIVE_UP_AFTER, LONGEST_RETRY, LONGEST_WAIT
from controller.letters import signed, signing_secrets
from controller.model import Reason
from controller.policies import SHADOW_SHARE
from controller.telemetry import Telemetry
from gpu_shadow import watch
from gpu_shadow.keeping import Keeper
from gpu_shadow.recorder import Recorder
from scenarios import story
from scenarios.play import play

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def mermaid(text: str) -> str:
    found = re.search(r"```mermaid\n(.*?)```", text, re.DOTALL)
    assert found
    return found.group(1)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    inside = [link for link in links if "://" not in link]
    assert not [link for link in inside if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", ["operations.md", "security.md"])
def test_every_promise_is_kept_by_a_test_of_its_name(page: str) -> None:
    named = re.findall(r"`(test_\w+)(?:\[[a-z-]+\])?`", (ROOT / "docs" / page).read_text())
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(named) >= 20
    assert not set(named) - there


def test_the_story_that_is_shown_can_be_played() -> None:
    found = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "testing.md").read_text(), re.DOTALL)
    assert found
    assert play(story.loads(found.group(1), file="docs/testing.md")).ok


def test_the_picture_of_a_run_s_life_is_the_machine_s_own() -> None:
    assert mermaid((ROOT / "docs" / "architecture.md").read_text()) == mermaid(machine.__doc__ or "")


def test_every_reason_that_a_run_may_have_is_explained_to_those_in_trouble() -> None:
    explained = re.findall(r"`([A-Z][A-Za-z]+)`", (ROOT / "docs" / "troubleshooting.md").read_text())
    assert {reason.value for reason in Reason} <= set(explained)


def test_the_log_lines_that_pages_name_are_written_somewhere() -> None:
    pages = [(ROOT / "docs" / f"{each}.md").read_text() for each in ("troubleshooting", "operations")]
    named = re.findall(r"[Ll]og ((?:`[a-z_]+`(?:, )?)+)", "".join(pages))
    lines = {line for each in named for line in re.findall(r"`([a-z_]+)`", each)}
    code = "".join(
        file.read_text() for each in ("controller", "gpu_shadow") for file in (ROOT / each).glob("*.py")
    )
    assert len(lines) >= 15
    assert not {line for line in lines if f'"{line}"' not in code}


def said_in(value: Any, path: str = "") -> set[str]:
    """The paths of a story's fields, as docs/stories.md writes them."""
    if isinstance(value, list):
        return {one for each in value for one in said_in(each, f"{path}[]")} | {f"{path}[]"}
    if not isinstance(value, dict) or path in {"policy", "edits[].patch.merge"}:
        return {path}
    return {one for name, each in value.items() for one in said_in(each, f"{path}.{name}" if path else name)}


def test_every_field_that_a_story_says_is_in_the_table_of_them() -> None:
    meanings = runpy.run_path(str(ROOT / "docs" / "write_stories.py"))["MEANINGS"]
    files = sorted((ROOT / "scenarios").glob("*.yaml"))
    said = {one for file in files for one in said_in(yaml.safe_load(file.read_text())["spec"])}
    arms = {re.sub("^(stable|canary)[.]", "ARM.", path) for path in said}
    alike = {re.sub(r"^expect\.oneOf\[\]\.|^faults\[\]\.(?=predictions\.)", "", path) for path in arms}
    known = meanings.keys() | {f"expect.{name}" for name in ("outcome", "within", "check", "reason")}
    known |= {
        "predictions.distribution",
        "predictions.a",
        "predictions.b",
        "outcome",
        "within",
        "check",
        "reason",
    }
    assert len(files) > 20
    assert not alike - known


@pytest.mark.parametrize("page", ["policy", "cli", "stories", "measured"])
def test_a_page_that_is_written_is_what_would_be_written_now(page: str) -> None:
    script = runpy.run_path(str(ROOT / "docs" / f"write_{page}.py"))
    assert script["PAGE"].read_text() == script["page"](), "make reference"


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        ("scenario run", "--live"),
        ("simulate", "--runs"),
        ("shadow replay", "--stable"),
        ("baseline capture", "--out"),
    ],
)
def test_commands_that_other_packages_have_are_in_the_reference_too(verb: str, option: str) -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert option in page.partition(f"## serin {verb}\n")[2].partition("\n## ")[0]


def test_the_annotations_page_names_those_that_are_known_and_no_other() -> None:
    rows = re.findall(
        r"^\| `(serin\.dev/[a-z-]+)` \|", (ROOT / "docs" / "annotations.md").read_text(), re.MULTILINE
    )
    assert set(rows) == trigger.KNOWN
    assert len(rows) == len(trigger.KNOWN)


def test_the_annotations_page_names_all_that_the_controller_writes_or_reads() -> None:
    code = "".join(path.read_text() for path in (ROOT / "controller").rglob("*.py"))
    named = set(re.findall(r'"serin\.dev/([a-z][a-z-]+)"', code)) | set(
        re.findall(r'\{GROUP\}/([a-z-]+)"', code)
    )
    assert {"fence", "drill", "restore-traffic", "workload", "artifact"} <= named
    page = (ROOT / "docs" / "annotations.md").read_text()
    source = {"controller"}  # of an Event, no name on an object
    assert {name for name in named if f"serin.dev/{name}" not in page} == source


def test_the_reference_has_every_reason_and_outcome() -> None:
    page = (ROOT / "docs" / "policy.md").read_text().partition("## Reasons")[2]
    assert re.findall(r"^\| `([A-Z]\w+)` \| \w", page, re.MULTILINE) == [reason.value for reason in Reason]
    outcomes = set(letters.TITLES)
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    assert outcomes == {one for one in outcomes if f"`{one}`" in page and f"`{one}`" in glossary}


def test_every_field_of_the_reference_says_what_it_is_in_a_row_of_its_own() -> None:
    fields = (ROOT / "docs" / "policy.md").read_text().partition("## Reasons")[0]
    lines = [line for line in fields.splitlines() if line.startswith("| `")]
    rows = [re.split(r"(?<!\\) \| ", line.removesuffix(" |")) for line in lines]
    assert len(rows) > 60
    assert [row for row in rows if len(row) != 4 or not row[3].strip()] == []
    tables = re.findall(r"^\|---.*\n((?:.*\S.*\n)*)", fields, re.MULTILINE)
    assert sum(len(table.splitlines()) for table in tables) == len(rows)  # nothing broken out of a cell


def test_the_reference_says_which_share_a_check_has_by_its_type() -> None:
    kinds = {CheckKind.LATENCY: "Latency", CheckKind.ERROR_RATE: "ErrorRate"}
    kinds |= {CheckKind.PREDICTIONS: "Predictions", CheckKind.PROPORTION: "Proportion"}
    said = (ROOT / "docs" / "policy.md").read_text().partition("`checks[].share`")[2].partition("\n")[0]
    shares = {name: float(share) for name, share in re.findall(r"([A-Z]\w+) (0\.\d+)", said)}
    assert shares == {kinds[kind]: share for kind, share in SHARES.items()} | {"Shadow": SHADOW_SHARE}


def test_the_metrics_page_names_every_series_of_ours_and_no_other() -> None:
    _, said = (ROOT / "docs" / "metrics.md").read_text().split("## What Serin says")
    said = said.partition("## What the worker says")[0]
    named = {
        name
        for row in re.findall(r"^\| (`.*?) \|", said, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    served = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in Telemetry().registry.collect()
        if not family.name.startswith(("process_", "python_gc_"))
    }
    assert named == served


def test_the_metrics_page_names_every_series_of_the_worker_and_every_reason(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    pages = Recorder().page() + keeper.page()
    said = (ROOT / "docs" / "metrics.md").read_text().partition("## What the worker says")[2]
    named = set(re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`.*?) \|", said, re.MULTILINE))))
    code = "".join(
        (ROOT / "gpu_shadow" / f"{each}.py").read_text()
        for each in ("recorder", "door", "protocol", "redact", "worker", "watch")
    )
    reasons = set(re.findall(r'(?:drop|missed|end|Unreadable)\(\s*"([a-z-]+)"', code))
    assert reasons <= named
    assert all(f'"{name}"' in code or name in pages for name in named - {"reason"})
    assert {*re.findall(r"TYPE (\w+)", pages), watch.DRIFT, watch.MISSING} <= named


def test_the_receiver_that_is_shown_takes_a_message_of_ours_once_and_no_other() -> None:
    page = (ROOT / "docs" / "alerts.md").read_text()
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found
    shown: dict[str, Any] = {}
    exec(found.group(1), shown)
    secret, at = "whsec_" + b64encode(b"k" * 24).decode(), datetime(2026, 3, 1, tzinfo=UTC)
    clock = at.timestamp() + 10

    def genuine(
        id_: str, body: bytes, *, sent: bytes | None = None, now: float = clock, **changed: str
    ) -> bool:
        old = signing_secrets(f"whsec_{b64encode(b'o' * 24).decode()} {secret}".encode())
        headers = {**signed(id_, body, secrets=old, at=at), **changed}
        taken: bool = shown["genuine"](headers, sent or body, secret, now=lambda: now)
        return taken

    assert genuine("a", b"{}")
    assert not genuine("a", b"{}")  # replayed
    assert not genuine("b", b"{}", sent=b'{"a":1}')  # another body
    assert not genuine("c", b"{}", now=clock + 301)  # kept for later
    assert not genuine("d", b"{}", **{"webhook-timestamp": str(int(clock))})  # made to look new
    assert not genuine("e", b"{}", **{"webhook-id": "f"})  # made to look like another
    assert not genuine("g", b"{}", **{"webhook-signature": "v1,AAAA v2,BBBB"})
    assert genuine("h", b"{}", now=clock + 200)
    assert set(shown["seen"]) == {"a", "h"}
    assert genuine("i", b"{}", now=clock + 289)
    assert not genuine("a", b"{}", now=clock + 289)
    assert not genuine("i", b"{}", now=clock + 1e6)
    assert set(shown["seen"]) == {"a", "h", "i"}  # what is refused costs no memory, and frees none


def test_the_alerts_page_has_the_figures_of_the_code() -> None:
    page = (ROOT / "docs" / "alerts.md").read_text()
    assert f"an attempt may take {ATTEMPT_TIMEOUT:g} s" in page
    assert f"After {GIVE_UP_AFTER.total_seconds() / 3600:g} hours" in page
    assert LONGEST_WAIT == 3600
    assert LONGEST_RETRY == 300
    assert "… 5 min" in page
