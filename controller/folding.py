"""Lines as a terminal has room for them. Pure; where there is no terminal nothing is folded or left out."""

import re
import textwrap
from collections.abc import Mapping, Sequence

WIDTH = 100  # of a section's lines, whatever they are printed on
TYPED = re.compile(r"\b(kubectl|serin) [a-z]")  # what can be typed is copied, so it stays in one piece
# Columns of a table that people can do without, first those that say the least.
SPARE = ("WORKLOAD", "POLICY", "AGE", "VERDICT", "STEP")
GAP = 3  # blanks between two columns


def wrapped(line: str, width: int = WIDTH) -> list[str]:
    """A line of a section, folded at `width`; what can be typed stays whole."""
    if "   # " in line or len(line) < width:
        return [f"  {line}"]
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    hang = indent + "  " if line.lstrip().startswith("- ") else indent
    return textwrap.wrap(line.strip(), width, initial_indent=indent, subsequent_indent=hang)


def fitted(text: str, columns: int | None) -> str:
    """`text` with longer lines folded, but for those in which something can be typed."""
    if columns is None:
        return text
    return "\n".join(each for line in text.split("\n") for each in _folded(line, columns))


def _folded(line: str, columns: int) -> list[str]:
    if len(line) <= columns or TYPED.search(line):
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    hang = f"{indent}  "
    return textwrap.wrap(line.strip(), columns, initial_indent=indent, subsequent_indent=hang)


def kept(rows: Sequence[Mapping[str, str]], names: Sequence[str], columns: int | None) -> list[str]:
    """The table's columns for which there is room; name, weight and what holds a run are never left out."""
    shown = list(names)
    width = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    for name in SPARE:
        if columns is None or sum(width[each] + GAP for each in shown) - GAP <= columns:
            break
        shown = [each for each in shown if each != name]
    return shown
