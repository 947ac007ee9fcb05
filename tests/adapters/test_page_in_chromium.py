"""The page in a real browser: one start of Chromium, everything that only a browser can tell."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.telemetry import Telemetry
from controller.web import Answers, serving
from scenarios import gallery
from scenarios.browser import Tab, browser

pytestmark = pytest.mark.live

ROOM = gallery.gallery(many=194, now=datetime.now(UTC))
LIVE = "#/ml/fraud-score-canary-6f9c7d5b84-1"
HOSTILE = ROOM.runs[5]["metadata"]
PLACES = ["#/", LIVE, "#/ml/ranker-canary-6f9c7d5b84-1", "#/ml/summary-canary-6f9c7d5b84-1"]
REPLAYED = "#/ml/embedder-canary-6f9c7d5b84-1"
PLACES.append(REPLAYED)
PLACES += [f"#/{HOSTILE['namespace']}/{HOSTILE['name']}"]


async def go(tab: Tab, url: str, place: str) -> None:
    """The place is shown."""
    await tab.do("Page.navigate", url="about:blank")  # or a place that is shown already would not load
    await tab.do("Page.navigate", url=f"{url}/{place}")
    view = "view" if place == "#/" else f"view{place[1:]}"
    await tab.until(f"document.body?.dataset.shown === {view!r}")


AUDIT = Path(__file__).with_name("audit.js").read_text()  # what is wrong with a screen


async def screens_are_sound(tab: Tab, url: str) -> None:
    for number, place in enumerate(PLACES + PLACES[:2]):  # the list and a live run as both see them
        width, dark = [(390, False), (1200, True)][number % 2]
        await tab.look(width=width, dark=dark)
        await go(tab, url, place)
        assert await tab.ask(AUDIT) == [], (place, width, dark)
    for place in PLACES:  # a phone's, or a desk's at 400 %, where WCAG (1.4.10) wants no sideways scrolling
        await tab.look(width=320)
        await go(tab, url, place)
        assert await tab.ask(AUDIT) == [], place


async def the_step_at_which_a_canary_was_rolled_back_is_not_shown_as_passed(tab: Tab, url: str) -> None:
    steps = "[...document.querySelectorAll('.steps li')].map((one) => one.textContent)"
    await go(tab, url, "#/ml/ranker-canary-6f9c7d5b84-1")
    first, second, *others = await tab.ask(steps)
    assert (first, second) == ("5 % (passed)", "10 % (ended here)")
    assert all(each.endswith("(not reached)") for each in others)
    await go(tab, url, LIVE)
    assert (await tab.ask(steps))[1:3] == ["10 % (now)", "25 % (to come)"]


async def nothing_that_somebody_wrote_is_run(tab: Tab, url: str) -> None:
    await go(tab, url, PLACES[-1])
    assert await tab.ask("document.querySelector('h1').textContent") == gallery.HOSTILE
    assert await tab.ask("document.querySelectorAll('main img, main script').length") == 0
    assert await tab.ask("document.title") != "owned"
    # and were it markup, the page's policy would stop it
    with pytest.raises(RuntimeError, match="TrustedHTML"):
        await tab.ask("document.body.innerHTML = '<b>x</b>'")
    inline = "const s = document.createElement('script'); s.append('window.owned = 1');"
    await tab.ask(f"{{ {inline} document.body.append(s); }}")
    assert await tab.ask("window.owned") is None
    tab.complaints.clear()  # which the browser has about the two


async def all_can_be_done_with_keys(tab: Tab, url: str) -> None:
    await tab.look(width=1200)
    await go(tab, url, "#/")
    await tab.key("Tab")
    assert await tab.ask("document.activeElement.textContent") == "To the content"
    for _ in range(8):  # home, six buttons (one of them hidden), the search field
        await tab.key("Tab")
    await tab.key("Tab")
    assert await tab.ask("document.activeElement.matches('.runs a')")
    outline = await tab.ask("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    await tab.key("Enter")
    await tab.until("location.hash.length > 3 && document.querySelector('.answer')")
    assert await tab.ask("document.activeElement.tagName") == "H1"


async def a_screen_reader_hears_of_news_and_of_nothing_else(tab: Tab, url: str) -> None:
    run, status = ROOM.runs[0], ROOM.runs[0]["status"]
    await go(tab, url, LIVE)
    before = {**status}
    heard = "document.querySelector('[role=status]').textContent"
    status["checks"][0]["canaryRequests"] += 100  # counts move all the time
    await tab.ask("new Promise((done) => setTimeout(done, 1100)).then(ask)")
    await tab.until("document.body.textContent.includes('1304 canary requests')")
    assert await tab.ask(heard) == ""
    status |= {
        "phase": "Failed",
        "reason": "CheckFailed",
        "weight": 0,
        "message": "latency-p95: twice as slow",
    }
    run["metadata"]["resourceVersion"] = "2"
    await tab.until("document.querySelector('.answer .word').textContent === 'Worse: rolled back'")
    assert await tab.ask(heard) == "fraud-score-canary: Worse: rolled back, 0 percent of requests"
    status.clear()
    status |= before


async def a_row_keeps_the_evidence_that_rolled_back(tab: Tab, url: str) -> None:
    await go(tab, url, "#/")
    cells = "[...document.querySelectorAll('.runs tr')].map((one) => one.textContent)"
    (row,) = [one for one in await tab.ask(cells) if one.startswith("ranker-canary-6f9c7d5b84-1")]
    assert "100 %" in row


async def plots_are_tables_too(tab: Tab, url: str) -> None:
    await go(tab, url, LIVE)
    await tab.ask("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    await tab.until("document.querySelectorAll('details table').length === 5")
    assert await tab.ask("document.querySelector('details table').rows.length") > 20
    words = await tab.ask("document.querySelector('.plot').getAttribute('aria-label')")
    assert words.startswith("Evidence against the canary. Now 3 to 1")


async def small_parts_and_odds_just_short_of_the_line_are_said_as_they_are(tab: Tab, url: str) -> None:
    """Of an alpha of 0.5 % the page said "at most < 1 % of runs", where `explain` has the figure."""
    policy = ROOM.runs[0]["spec"]["plan"]["policy"]
    policy["alpha"], before = 0.005, policy["alpha"]
    ROOM.runs[0]["metadata"]["resourceVersion"] = "3"
    await go(tab, url, LIVE)
    await tab.until("document.body.textContent.includes('200 to 1 rolls')")
    assert await tab.ask("document.body.textContent.includes('in at most 0.5 % of runs. Checks share')")
    assert await tab.ask("odds(Math.log(199.7), Math.log(200))") == "just under 200 to 1"
    assert await tab.ask("[odds(Math.log(200), Math.log(200)), odds(Math.log(199.7))]") == ["200 to 1"] * 2
    policy["alpha"] = before
    ROOM.runs[0]["metadata"]["resourceVersion"] = "4"


async def what_was_replayed_is_a_section_of_its_own(tab: Tab, url: str) -> None:
    said = (
        "[...document.querySelectorAll('h2')].find((one) => one.textContent.startsWith('Requests replayed'))"
    )
    for width, dark in ((390, False), (390, True), (1200, True)):
        await tab.look(width=width, dark=dark)
        await go(tab, url, REPLAYED)
        words = await tab.ask(f"{said}.parentElement.textContent")
        assert "shadow: no worse" in words
        assert "At most 0.31 % of answers differ beyond the noise floor; 0.5 % may." in words
        assert "18 240" in words
        assert "0.16 %; beyond the noise floor 0.04 % to 0.31 %" in words
        assert "Most different7f1c-4be2-9d07-7a30c5 (another answer)3f1c" in words
        assert await tab.ask(AUDIT) == [], (width, dark)
    await go(tab, url, LIVE)
    assert await tab.ask(f"{said} === undefined")


async def test_the_page_in_a_browser() -> None:
    answers = Answers(
        idle=lambda: timedelta(0),
        lists=dict,
        metrics=Telemetry().page,
        runs=lambda: ROOM.runs,
        trace=ROOM.traces.get,
    )
    checks: list[Callable[[Tab, str], Any]] = [
        screens_are_sound,
        the_step_at_which_a_canary_was_rolled_back_is_not_shown_as_passed,
        nothing_that_somebody_wrote_is_run,
        all_can_be_done_with_keys,
        a_screen_reader_hears_of_news_and_of_nothing_else,
        a_row_keeps_the_evidence_that_rolled_back,
        plots_are_tables_too,
        small_parts_and_odds_just_short_of_the_line_are_said_as_they_are,
        what_was_replayed_is_a_section_of_its_own,
    ]
    async with serving(answers, "127.0.0.1", 0) as url, browser() as tab:
        for check in checks:
            await check(tab, url)
            assert tab.complaints == [], check.__name__
        assert {each for each in tab.requests if not each.startswith(f"{url}/")} == set()
