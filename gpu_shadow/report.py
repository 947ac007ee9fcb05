"""What is said of two models as a page with pictures: one file, no script, nothing that is loaded.

Everything in it comes from counts that merge, so the page of a merged comparison is as full as any.
Names, labels and ids are whatever somebody sent: they are shown, and can do nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from gpu_shadow.finding import VERDICTS, Difference, Share, percent, times
from gpu_shadow.pictures import Bar, calibration, columns, histogram, intervals, shown
from gpu_shadow.said import Said, alike
from gpu_shadow.tally import BINS, Comparison, Marks

MATRIX = 12  # classes that are shown as a matrix, those with most flips
MOST_TURNS = 30  # of one class into another that are listed
FIRST = ("max_delta", "displaced")  # the figure whose histogram is open: noise is told in it
FIGURES = {
    "kl": "KL divergence, nats",
    "js": "JS divergence, nats",
    "tv": "total variation",
    "missed": "share of stable's top ones missed",
    "max_delta": "largest difference of an output",
    "mean_delta": "mean difference of scores",
    "confidence": "confidence, canary less stable",
    "entropy": "entropy, stable less canary, nats",
    "difference": "canary less stable",
    "relative": "relative difference",
    "cosine_distance": "1 - cosine",
    "per_token": "mean log-probability of a token, canary less stable",
    "beyond": "share of tokens further off than the tolerance",
    "diverged": "share of its own answer after the first other token",
    "brier": "Brier score, canary less stable",
    "nll": "negative log-likelihood, canary less stable",
    "error": "distance from the label, canary less stable",
    "displaced": "displacement of the top ones",
}
STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1e293b;--faint:#64748b;--line:#e2e8f0;--soft:#f1f5f9;
--canary:#c2410c;--again:#2563eb;--allowed:#dcfce7;--pass:#15803d;--fail:#b91c1c;--open:#a16207}
@media(prefers-color-scheme:dark){:root{--paper:#0f172a;--ink:#e2e8f0;--faint:#94a3b8;--line:#334155;
--soft:#1e293b;--canary:#fb923c;--again:#60a5fa;--allowed:#12331f;--pass:#166534}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:46rem;padding:1.25rem 1rem 3rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.35rem;line-height:1.35;margin:.75rem 0}
h2{font-size:1.1rem;margin:2.25rem 0 .25rem}
p,figure,ul{margin:.5rem 0}
ul{padding-left:1.2rem}
.verdict{display:inline-block;padding:.15rem .7rem;border-radius:1rem;color:#fff;background:#475569}
.Pass{background:var(--pass)}.Fail{background:var(--fail)}.Inconclusive{background:var(--open)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--faint);padding:.25rem 0}
th,td{text-align:right;padding:.25rem .5rem;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal;min-width:7rem}
.name,.name td{white-space:normal;overflow-wrap:anywhere}
.matrix td,.matrix th{text-align:center;padding:.35rem .25rem;min-width:0}
details{margin:.25rem 0}
summary{cursor:pointer;color:var(--faint);font-size:.875rem;padding:.35rem 0}
svg{display:block;overflow:visible}
svg text{fill:var(--ink);font-size:13px}
svg .over{paint-order:stroke;stroke:var(--paper);stroke-width:5px;stroke-linejoin:round}
svg .tick{fill:var(--faint);font-size:12px}
svg line{stroke-width:1}
svg .paper{fill:var(--paper)}
svg .axis{stroke:var(--faint)}svg .grid{stroke:var(--line)}
svg .margin{stroke:var(--ink);stroke-width:2;stroke-dasharray:5 4}
svg .allowed{fill:var(--allowed)}
svg line.canary{stroke:var(--canary);stroke-width:2.5}
svg .canary{fill:var(--canary)}
svg rect.again{fill:var(--again)}
svg circle.again{fill:none;stroke:var(--again);stroke-width:2.5}
.key::before{content:"";display:inline-block;width:.7rem;height:.7rem;margin-right:.3rem;border-radius:50%;
background:var(--canary)}
.key.again::before{background:none;border:2.5px solid var(--again)}
.key{margin-right:1rem;font-size:.875rem;white-space:nowrap}
footer{margin-top:2.5rem;color:var(--faint);font-size:.875rem}
code{overflow-wrap:anywhere}
""".strip()
# no script, no font, no picture from elsewhere: also not if something has slipped through
NOTHING = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def report(said: Said) -> str:
    """The page, as HTML."""
    finding = said.finding
    verdict = VERDICTS[finding.verdict]
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{NOTHING}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{verdict}: shadow comparison</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n<main>",
        f'<header><span class="verdict {verdict}">{verdict}</span>',
        f"<h1>{shown(finding.why[0])}</h1>",
        _list(finding.why[1:]),
        "</header>",
        *_excess(said),
        *_accuracy(said),
        *_moved(said),
        *_turns(said.comparison),
        *_slices(said),
        *_worst(said),
        *_figures(finding.differences),
        *_sources(said),
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def named(text: str) -> str:
    """An id or a name, which cannot turn round the line it stands in."""
    return f"<bdi>{shown(text)}</bdi>"


# -- parts of the page -----------------------------------------------------------------------------


def _excess(said: Said) -> Iterator[str]:
    overall, margin = said.finding.overall, said.margins.max_flips
    if overall is None:
        return
    told = f"{_share(overall)} Allowed: {percent(margin)}."
    bar = Bar(
        label=f"{overall.requests} requests", ends=overall.interval, point=overall.excess, floor=overall.floor
    )
    yield "<section><h2>Answers that differ</h2>"
    yield f"<p>{told}{_beyond_noise(said)}</p>"
    yield _figure(
        intervals("excess", "The interval of the excess, and the margin", told, [bar], margin=margin),
        _key(again=overall.floor is not None, canary="excess", floor="noise floor"),
        _table(
            "Shares of requests",
            ("", "share"),
            [
                ("the canary's answer differs", f"{overall.flips:.3%}"),
                ("stable's second answer differs", _or_not(overall.floor)),
                ("excess", f"{overall.excess:.3%}"),
                ("excess, at least", f"{overall.interval[0]:.3%}"),
                ("excess, at most", f"{overall.interval[1]:.3%}"),
                ("margin", f"{margin:.3%}"),
            ],
        ),
    )
    yield "</section>"


def _share(share: Share) -> str:
    floor = "" if share.floor is None else f", {percent(share.floor)} of stable's own second ones"
    low, high = map(percent, share.interval)
    return f"{percent(share.flips)} of {share.requests} answers differ{floor}; the excess is {low} to {high}."


def _beyond_noise(said: Said) -> str:
    clear = said.finding.clear
    return "" if clear is None else f" {percent(clear)} differ where stable's answer was clear of noise."


def _accuracy(said: Said) -> Iterator[str]:
    wrong, margin = said.finding.wrong, said.margins.max_accuracy_loss
    if wrong is None:
        return
    stable, canary = 1 - (wrong.floor or 0.0), 1 - wrong.flips
    low, high = map(percent, wrong.interval)
    allowed = "It decides nothing." if margin is None else f"Allowed: {percent(margin)}."
    told = (
        f"Of {wrong.requests} labelled requests stable has {percent(stable)} right, the canary "
        f"{percent(canary)}: a loss of {low} to {high}. {allowed}"
    )
    bar = Bar(label=f"{wrong.requests} labels", ends=wrong.interval, point=wrong.excess)
    yield "<section><h2>Accuracy</h2>"
    yield f"<p>{told}</p>"
    rows = [
        ("stable right", f"{stable:.3%}"),
        ("canary right", f"{canary:.3%}"),
        ("loss", f"{wrong.excess:.3%}"),
    ]
    rows += [("loss, at least", f"{wrong.interval[0]:.3%}"), ("loss, at most", f"{wrong.interval[1]:.3%}")]
    yield _figure(
        intervals("loss", "The interval of the loss of accuracy", told, [bar], margin=margin),
        _key(again=False, canary="loss of accuracy", floor=""),
        _table("Shares of labelled requests", ("", "share"), rows),
    )
    marks = said.finding.marks
    yield from _calibration(
        {arm: marks[arm] for arm in ("stable", "canary") if arm in marks and marks[arm].n}
    )
    yield "</section>"


def _calibration(marks: Mapping[str, Marks]) -> Iterator[str]:
    if not marks:
        return
    sides = {"again" if arm == "stable" else "canary": each.bins for arm, each in marks.items()}
    off = ", ".join(f"{arm} {each.ece:.4f}" for arm, each in marks.items())
    told = f"How far confidence is from the share that is right (ECE): {off}."
    rows = [
        (arm, f"{at / BINS:.0%} to {(at + 1) / BINS:.0%}", str(one.n), f"{one.right / one.n:.1%}")
        for arm, each in marks.items()
        for at, one in sorted(each.bins.items())
        if one.n
    ]
    yield _figure(
        calibration("calibration", "Confidence, and the share that is right", told, sides),
        f"<p>{told} On the line confidence is deserved; below it, it is too high.</p>"
        + _key(again=True, canary="canary", floor="stable"),
        _table("By confidence", ("version", "confidence", "requests", "right"), rows),
    )


def _moved(said: Said) -> Iterator[str]:
    of = said.comparison
    names = sorted(
        (name for name in of.figures if of.figures[name].n), key=lambda one: (one not in FIRST, one)
    )
    if not names:
        return
    yield "<section><h2>How far answers moved</h2>"
    yield (
        "<p>Requests by how far their answer moved: hardly on the left, far on the right. What lies right "
        "of all that stable itself differs in is no noise.</p>"
    )
    for place, name in enumerate(names):
        picture = _histogram(of, name, place)
        yield _details(picture, _word(name)) if place else picture
    yield "</section>"


def _histogram(of: Comparison, name: str, place: int) -> str:
    spread, floor = of.figures[name], of.floor.get(name)
    noise = floor is not None and floor.n > 0
    found = columns(spread.buckets, floor.buckets if floor is not None else {})
    again = f"; stable's second answers {floor.quantile(0.5):.3g}" if floor is not None and noise else ""
    word = _word(name)[0].upper() + _word(name)[1:]
    told = f"{word}: half of {spread.n} requests are at most {spread.quantile(0.5):.3g}{again}."
    rows = [(_sizes(one.low, one.high), str(one.canary), str(one.again)) for one in found]
    return _figure(
        histogram(f"moved-{place}", word, told, found),
        f"<p>{shown(told)}</p>" + _key(again=noise, canary="canary", floor="stable again"),
        _table(f"Requests by {_word(name)}", ("size", "canary", "stable again"), rows),
    )


def _sizes(low: float, high: float) -> str:
    return "0" if high == 0 else f"{low:.3g} to {high:.3g}"


def _turns(of: Comparison) -> Iterator[str]:
    if not of.turns:
        return
    most = sorted(of.turns.items(), key=lambda each: (-each[1], each[0]))
    flips = sum(of.turns.values())
    yield "<section><h2>Which classes became which</h2>"
    yield f"<p>{flips} answers name another class, in {len(most)} ways.</p>"
    by_class: dict[int, int] = {}
    for pair, n in of.turns.items():
        for one in pair:
            by_class[one] = by_class.get(one, 0) + n
    classes = sorted(sorted(by_class, key=lambda one: (-by_class[one], one))[:MATRIX])
    left = "" if len(by_class) <= MATRIX else f"; the {MATRIX} of {len(by_class)} classes with most"
    yield _matrix(of, classes, f"Requests: stable's class down, the canary's across{left}")
    rows = [(f"{a} to {b}", str(n), f"{n / flips:.1%}") for (a, b), n in most[:MOST_TURNS]]
    more = "" if len(most) <= MOST_TURNS else f", the most frequent {MOST_TURNS} of {len(most)}"
    yield _details(_table(f"Turns{more}", ("from to", "requests", "of all flips"), rows), "As a list")
    yield "</section>"


def _matrix(of: Comparison, classes: Sequence[int], caption: str) -> str:
    most = max(of.turns.values())
    head = "".join(f'<th scope="col">{one}</th>' for one in classes)
    body = "".join(
        f'<tr><th scope="row">{a}</th>'
        + "".join(_cell(of.turns.get((a, b), 0), most, same=a == b) for b in classes)
        + "</tr>\n"
        for a in classes
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f'<table class="matrix"><caption>{caption}</caption>\n'
        f"<tr><td></td>{head}</tr>\n{body}</table></div>"
    )


def _cell(n: int, most: int, *, same: bool) -> str:
    if same or not n:
        return f"<td>{'·' if same else ''}</td>"
    shade = round(8 + 52 * n / most)  # percent of the colour: letters stay readable
    return f'<td style="background:color-mix(in srgb,var(--canary) {shade}%,var(--paper))">{n}</td>'


def _slices(said: Said) -> Iterator[str]:
    found = sorted(said.finding.shown, key=lambda one: (-one.interval[0], -one.excess, one.label))
    if not found:
        return
    bars = [
        Bar(
            label=f"{_label(one)}: {percent(one.flips)} of {one.requests}",
            ends=one.interval,
            point=one.excess,
            floor=one.floor,
        )
        for one in found
    ]
    rows = [
        (
            named(_label(one)),
            str(one.requests),
            f"{one.flips:.3%}",
            _or_not(one.floor),
            f"{one.interval[0]:.3%} to {one.interval[1]:.3%}",
        )
        for one in found
    ]
    told = f"{len(found)} slices, the one that is surest to be worse first: {_label(found[0])}."
    yield "<section><h2>Slices</h2>"
    yield f"<p>{shown(told)}</p>"
    yield _figure(
        intervals(
            "slices", "The excess of each slice, and the margin", told, bars, margin=said.margins.max_flips
        ),
        _key(again=any(one.floor is not None for one in found), canary="excess", floor="noise floor"),
        _table("Slices", ("slice", "requests", "differ", "stable again", "excess"), rows, ready=True),
    )
    yield "</section>"


def _label(share: Share) -> str:
    return share.label or "all others"


def _worst(said: Said) -> Iterator[str]:
    if not said.finding.worst:
        return
    rows = [(named(name), _how(score)) for score, name in said.finding.worst]
    yield "<section><h2>Most different requests</h2>"
    yield _table(
        "By id, the most different first", ("request", "what became of it"), rows, ready=True, kind="name"
    )
    yield "</section>"


def _how(score: float) -> str:
    if score > 2:
        return "no answer"
    return f"differs, {score - 1:.3f} apart" if score >= 1 else f"the same answer, {score:.3g} apart"


def _figures(differences: Iterable[Difference]) -> Iterator[str]:
    rows = [
        (
            _word(one.name),
            f"{one.mean:.3g}",
            f"{one.interval[0]:.3g} to {one.interval[1]:.3g}{'*' if one.asymptotic else ''}",
            f"{one.median:.3g}",
            f"{one.p99:.3g}",
            f"{one.largest:.3g}",
            times(one.ratio),
        )
        for one in differences
    ]
    if rows:
        head = ("figure", "mean", "interval", "median", "99 %", "largest", "x noise")
        yield "<section><h2>Figures</h2>"
        yield _table("Of each request; medians and 99 % of its size. * for many requests", head, rows)
        yield "</section>"


def _sources(said: Said) -> Iterator[str]:
    margins, swapped = said.margins, said.swapped
    yield "<footer><h2>Where this comes from</h2>"
    rows = [
        (shown(one.role), f"{named(one.name)}<br><code>sha256:{shown(one.sha256)}</code>")
        for one in said.sources
    ]
    if rows:
        yield _table("What was compared", ("", "name and digest"), rows, ready=True, kind="name")
    if swapped is not None:
        yield (
            f"<p>Any difference at all, of whatever kind: p = {swapped.p:.3g} (pair-swap test, "
            f"{swapped.permutations} swaps). It decides nothing.</p>"
        )
    yield from (f"<p>{shown(each)}</p>" for each in (alike(said.neighbours) if said.neighbours else ()))
    yield (
        f"<p>Task {shown(margins.task)}; {percent(margins.max_flips)} of answers may differ. A canary "
        f"within that fails with probability at most {percent(margins.alpha)}, one beyond it passes with at "
        f"most {percent(margins.beta)}, however often one looks. An answer that differs may be the right "
        "one.</p></footer>"
    )


# -- what they are made of -------------------------------------------------------------------------


def _word(name: str) -> str:
    return FIGURES.get(name, name)


def _or_not(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.3%}"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{shown(each)}</li>' for each in lines)}</ul>" if lines else ""


def _figure(picture: str, caption: str, table: str) -> str:
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>\n{_details(table, 'As a table')}"


def _details(body: str, summary: str) -> str:
    return f"<details><summary>{shown(summary)}</summary>\n{body}\n</details>"


def _key(*, again: bool, canary: str, floor: str) -> str:
    second = f'<span class="key again">{floor}</span>' if again else ""
    return f'<span class="key">{canary}</span>{second}'


def _table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, ready: bool = False, kind: str = ""
) -> str:
    """`ready`: the cells are HTML already."""
    top = "".join(f'<th scope="col">{shown(each)}</th>' for each in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{each if ready else shown(each)}</td>" for each in row) + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{shown(caption)}">'
        f'<table class="{kind}"><caption>{shown(caption)}</caption>\n'
        f"<tr>{top}</tr>\n{body}</table></div>"
    )
