"""Numbers and tables as people read them."""

import math


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def number(value: float) -> str:
    """Three significant digits; what was not found says so."""
    return f"{value:.3g}" if math.isfinite(value) else "not found"


def columns(rows) -> list[str]:
    """Aligned lines of a table whose first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
