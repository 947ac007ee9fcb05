"""`serin shadow` and `serin baseline`: two models' answers, and their inputs, compared at a desk."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from gpu_shadow.cli_replay import merge, replay
from gpu_shadow.wording import (
    UNPASSED,
    Misused,
    Percent,
    installed,
    json_option,
    max_flips_option,
    report_option,
    require_pass_option,
    tell,
    writable,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def shadow() -> None:
    """Compare a canary's answers with stable's, without a user who sees them.

    \b
    Examples:
      serin shadow compare stable.safetensors canary.safetensors --max-flips 0.5%
      serin shadow replay requests.jsonl --stable v7.safetensors --canary v8.safetensors
    """  # noqa: D301 - click's mark for lines that stay as written


shadow.add_command(replay)
shadow.add_command(merge)


@shadow.command(short_help="Two files of answers to the same requests: do more differ than may?")
@click.argument("stable", metavar="STABLE", type=click.Path(path_type=Path))
@click.argument("canary", metavar="CANARY", type=click.Path(path_type=Path))
@click.option(
    "--again",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Stable's answers once more: what differs between them is noise.",
)
@click.option(
    "--task",
    type=click.Choice(["classification", "regression", "embedding", "ranking", "text"]),
    default="classification",
    show_default=True,
    help="What a row is: scores of classes, numbers, a vector, scores of items, log-probabilities of tokens.",
)
@max_flips_option
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1e9),
    default=0.01,
    show_default=True,
    help="Answers further off differ. Regression: part of stable's value; embedding: of 1 - cosine;"
    " text: nats a token, of which 0.01 is 1 % of perplexity.",
)
@click.option(
    "--top",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Ranking: these have to be the same in the same order. Classification: counted if missed.",
)
@click.option("--probabilities", is_flag=True, help="Scores are probabilities, not logits.")
@click.option(
    "--labels",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The right answers, a tensor label, if STABLE has none: classes (below 0: not known) or numbers.",
)
@click.option(
    "--max-accuracy-loss",
    metavar="PERCENT",
    type=Percent(),
    help="Share of labelled requests that the canary may have wrong more than stable. Not given: it is told.",
)
@require_pass_option
@json_option
@report_option
def compare(
    stable: Path,
    canary: Path,
    again: Path | None,
    out: Path | None,
    page: Path | None,
    *,
    require_pass: bool,
    task: str,
    max_flips: float,
    max_accuracy_loss: float | None,
    labels: Path | None,
    **how: Any,
) -> None:
    """Compare two models' answers to the same requests: do more differ than may?

    STABLE and CANARY are safetensors files with a tensor "output", row i of both the answer to the same
    request: scores [n, classes], numbers [n] or [n, outputs], vectors [n, d], scores of items [n, items].
    For text it is what each makes of the same completions: log-probabilities [n, longest] with a tensor
    "length" [n], or [tokens] with "offset" [n + 1]; "token" (with "token_length" or "token_offset") may be
    what each answered freely.
    STABLE may have a tensor "slice" of n whole numbers, such as tenants: then one slice that is worse
    suffices for a Fail. It may have a tensor "label" of the right answers: then accuracy and calibration of
    both are told, and with --max-accuracy-loss the canary is held to that as well.

    Pass: at most --max-flips of the answers differ, with probability 95 %. Fail: more do, with 99 %.
    Otherwise Inconclusive: compare more requests. You may look as often as you like, that is accounted for;
    rows should come in no order that has to do with the answers.

    Exit codes: 0 not failed, 1 the tool failed, 2 files that cannot be read or do not match, 3 Fail.

    \b
    Examples:
      serin shadow compare stable.safetensors canary.safetensors
      serin shadow compare stable.safetensors canary.safetensors --again again.safetensors --json -
      serin shadow compare stable.safetensors canary.safetensors --report page.html
      serin shadow compare stable.safetensors canary.safetensors --max-flips 20% \\
        --labels right.safetensors --max-accuracy-loss 1%
    """  # noqa: D301 - click's mark for lines that stay as written
    with installed("serin shadow compare"):
        from gpu_shadow import desk, said
        from gpu_shadow.files import BadFile
        from gpu_shadow.finding import Margins
    writable("--json", out)
    writable("--report", page)
    margins = Margins(max_flips=max_flips, max_accuracy_loss=max_accuracy_loss, task=task)
    try:
        files = desk.Files(stable=stable, canary=canary, again=again, labels=labels)
        found = desk.compared(files, margins=margins, **how)
    except BadFile as error:
        raise Misused(str(error)) from None
    passed = tell(found, said.told(found), out, page, require_pass=require_pass)
    sys.exit(0 if passed else UNPASSED)


@shadow.command(short_help="Two files of answers to different requests: are they one distribution?")
@click.argument("stable", metavar="STABLE", type=click.Path(path_type=Path))
@click.argument("canary", metavar="CANARY", type=click.Path(path_type=Path))
@click.option(
    "--alpha",
    metavar="PERCENT",
    type=Percent(),
    default="1%",
    show_default=True,
    help="How often two samples of one distribution may be said to differ.",
)
@click.option(
    "--json",
    "out",
    metavar="OUT",
    type=click.Path(path_type=Path, allow_dash=True),
    help='Write all p-values there as JSON; "-" is standard output.',
)
def unpaired(stable: Path, canary: Path, out: Path | None, *, alpha: float) -> None:
    """Compare two models' answers to different requests: can both come from one distribution?

    STABLE and CANARY are safetensors files with a tensor "output", a row an answer, as many values in each.
    Three tests look for what differs: kernels of four widths, the energy distance, and each output alone;
    their p-values are adjusted for being several (Holm). At most 2000 answers of each are taken.

    A difference may be one of the requests and not of the models, and it need not matter: where both can
    answer the same requests, `compare` says more.

    Exit codes: 0 no difference found, 1 the tool failed, 2 files that cannot be read or do not match,
    3 they differ.

    \b
    Example:
      serin shadow unpaired stable.safetensors canary.safetensors --alpha 5%
    """  # noqa: D301
    with installed("serin shadow unpaired"):
        from gpu_shadow import unpaired as tests
        from gpu_shadow.files import BadFile
    writable("--json", out)
    try:
        found = tests.compared(stable, canary, alpha=alpha)
    except BadFile as error:
        raise Misused(str(error)) from None
    click.echo("\n".join(tests.told(found)), err=str(out) == "-")
    if out is not None:
        with click.open_file(str(out), "w", encoding="utf-8") as file:
            file.write(json.dumps(found.to_json(), indent=2, allow_nan=False) + "\n")
    sys.exit(UNPASSED if found.differs else 0)


# -- training baselines ----------------------------------------------------------------------------


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def baseline() -> None:
    """Keep what inputs looked like when a model was trained, and see whether they still do.

    \b
    Examples:
      serin baseline capture training.csv --out model.baseline.json
      serin baseline show model.baseline.json
      serin baseline compare model.baseline.json last-week.jsonl
    """  # noqa: D301 - click's mark for lines that stay as written


@baseline.command(short_help="What a model was trained on, as a sketch without a single row.")
@click.argument("rows", metavar="DATA", type=click.Path(path_type=Path))
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Write it there.")
@click.option(
    "--force", is_flag=True, help="Also where a file is already: its digest is named in pod templates."
)
@click.option(
    "--category",
    "categories",
    metavar="NAME",
    multiple=True,
    help="This feature's numbers are codes of categories; may be given several times. Text always is one.",
)
def capture(rows: Path, out: Path | None, categories: tuple[str, ...], *, force: bool) -> None:
    """Capture a baseline: for each feature how the values in DATA are distributed, and no value itself.

    DATA is a .csv with a line of names, a .jsonl of flat objects, a .npz or .safetensors of arrays with a
    row a request; a sample of ten thousand rows does. Pickles are refused, since loading one may run any
    code. Kept are the bounds between twenty equal parts (of text the categories that occur five times or
    more), how many values were in each, how many were missing, range, mean and deviation.

    Name it on the canary's pod template, and inputs recorded for a Shadow check are compared with it:
    serin.dev/baseline: "file:///models/FILE@sha256:DIGEST".

    \b
    Examples:
      serin baseline capture training.csv --out model.baseline.json
      serin baseline capture training.npz --category country > model.baseline.json
    """  # noqa: D301
    from hashlib import sha256

    from gpu_shadow import inputs, sketch, table

    writable("--out", out)
    if out is not None and out.exists() and not force:
        raise Misused(f"--out {out}: is there already; name another file, or say --force")
    try:
        found = sketch.captured(table.read(rows), categories=categories)
    except table.BadTable as error:
        raise Misused(str(error)) from None
    except sketch.BadBaseline as error:
        raise Misused(f"{rows}: {error}") from None
    body = sketch.written(found)
    if found.tally.rows < inputs.Bounds().least:
        click.echo(
            f"Warning: {rows}: {found.tally.rows} rows are few, and inputs are compared with them as if they"
            f" were all of the training; capture {inputs.Bounds().least} or more, ten thousand do",
            err=True,
        )
    if out is None:
        click.echo(body, nl=False)
        return
    out.write_bytes(body)
    click.echo(f"{out}: {len(found.features)} features of {found.tally.rows} rows, {len(body)} bytes")
    click.echo(f"sha256:{sha256(body).hexdigest()}")


@baseline.command(short_help="What a baseline holds.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Show what the baseline FILE holds: a line a feature.

    \b
    Example:
      serin baseline show model.baseline.json
    """  # noqa: D301
    from gpu_shadow import telling

    click.echo("\n".join(telling.held(_baseline(file))))


@baseline.command("compare", short_help="Do these inputs still look as those of the training did?")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.argument("rows", metavar="DATA", type=click.Path(path_type=Path))
@click.option(
    "--json",
    "out",
    metavar="OUT",
    type=click.Path(path_type=Path, allow_dash=True),
    help='Write all figures there as JSON; "-" is standard output.',
)
def compare_baseline(file: Path, rows: Path, out: Path | None) -> None:
    """Compare the inputs in DATA with the baseline FILE, feature by feature.

    A feature has drifted if it has moved far and that is no chance: its values (PSI of 0.1 or more, its bias
    taken off), how often it is missing, or how often it lies outside all that the training knew (5 % of
    requests more). Of what is said to have drifted one in a hundred may be chance, however many features
    there are. It takes 1000 rows; with fewer nothing is said to have drifted.

    \b
    The columns; "was" is the same figure of the training:
      PSI      how differently values are spread over twenty parts; 0.1 is far
      p        how often chance alone does that
      KS       largest distance between the two cumulative distributions, 0 to 1
      JS       Jensen-Shannon distance between the parts, 0 to 1
      W1/sd    how far values have moved on average, in the training's deviations
      missing  empty, no number, or infinite
      outside  beyond the training's range, or a category it did not name

    Exit codes: 0 nothing has drifted, 1 the tool failed, 2 files that cannot be read or do not match,
    3 a feature has drifted.

    \b
    Examples:
      serin baseline compare model.baseline.json last-week.csv
      serin baseline compare model.baseline.json last-week.jsonl --json -
    """  # noqa: D301
    from gpu_shadow import inputs, sketch, table, telling

    writable("--json", out)
    known = _baseline(file)
    try:
        columns = table.read(rows)
    except table.BadTable as error:
        raise Misused(str(error)) from None
    names = [one.name for one in known.features]
    if not set(names) & set(columns):
        raise Misused(
            f"{rows}: has {sketch.listed(columns)}, and none of {file}'s features, {sketch.listed(names)};"
            " name its columns as the training's were"
        )
    found = inputs.figures(known, sketch.tallied(known.features, columns))
    moved = inputs.drifted(known, found, inputs.Bounds())
    if others := telling.others(names, columns):
        click.echo(f"{rows}: not in {file}, and not compared: {others}", err=True)
    click.echo("\n".join(telling.compared(known, found, moved)), err=str(out) == "-")
    if out is not None:
        with click.open_file(str(out), "w", encoding="utf-8") as written:
            written.write(json.dumps(telling.as_json(known, found, moved), indent=2, allow_nan=False) + "\n")
    sys.exit(UNPASSED if moved else 0)


def _baseline(file: Path) -> Any:
    """The baseline in the file; a sentence if there is none."""
    from gpu_shadow import sketch

    try:
        with file.open("rb") as held:
            return sketch.read(held.read(sketch.LARGEST + 1))
    except OSError as error:
        raise Misused(
            f"{file}: cannot be read ({error.strerror}); give a file of `serin baseline capture`"
        ) from None
    except sketch.BadBaseline as error:
        raise Misused(f"{file}: {error}") from None
