"""Reports as plain text."""


def table(title, head, rows, note):
    """A titled table with columns as wide as their widest cell, and a note below."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([title, "", text[0], "-" * len(text[0]), *text[1:], "", note])
