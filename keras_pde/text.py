"""Numbers and tables as people read them."""

import contextlib
import math
import sys


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def number(value: float) -> str:
    """Three significant digits; what was not found says so."""
    return f"{value:.3g}" if math.isfinite(value) else "not found"


def columns(rows, left: int | None = 1) -> list[str]:
    """Aligned lines of a table whose first row is the head.

    Args:
        rows: sequences of strings.
        left: how many of the columns are aligned at the left; None for all.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row):
        cells = zip(row, widths, strict=True)
        aligned = [
            cell.ljust(width) if left is None or i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(cells)
        ]
        return "  ".join(aligned).rstrip()

    lines = [line(row) for row in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def table(title, head, rows, note) -> str:
    """A titled table, and a note below."""
    return "\n".join([title, "", *columns([head, *rows], left=None), "", note])


def markdown_table(head, rows) -> list[str]:
    """Lines of a table of a Markdown page."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *map(_markdown_row, rows)]


def _markdown_row(cells):
    return f"| {' | '.join(cells)} |"


@contextlib.contextmanager
def progress_bar():
    """A bar on a terminal or in a notebook; nothing where output is a file.

    Yields:
        A function of (text, finished, total), or `None` without a terminal.
    """
    if not _someone_looks():
        yield None
        return
    with _bar() as bar:
        task = bar.add_task("", total=None, visible=False)

        def report(text, finished, total):
            bar.update(
                task, description=text, completed=finished, total=total, visible=finished < total
            )

        yield report


@contextlib.contextmanager
def transfer_bar(name, size):
    """The same for bytes on their way: yields a function of how many have come."""
    if not _someone_looks():
        yield lambda done: None
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with _bar(*columns, TransferSpeedColumn()) as bar:
        task = bar.add_task(name, total=size)
        yield lambda done: bar.update(task, completed=done)


def _someone_looks() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def _bar(*columns):
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, transient=True, console=Console(stderr=True))
