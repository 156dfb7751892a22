"""Seconds that `import keras_pde` takes beyond `import keras`, in fresh processes, in turn."""

import statistics
import subprocess
import sys

from common import interleaved, parser, report


def importing(statement):
    """A fresh interpreter that imports and ends."""
    command = [sys.executable, "-c", statement]
    return lambda: subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def main():
    options = parser(__doc__, rounds=9).parse_args()
    seconds = interleaved(
        {
            "import keras": importing("import keras"),
            "import keras, keras_pde": importing("import keras; import keras_pde"),
        },
        options.rounds,
    )
    alone, both = seconds.values()
    beyond = min(both) - min(alone)
    paired = statistics.median(b - a for a, b in zip(alone, both, strict=True))
    row = {
        "what": "`import keras_pde` beyond `import keras`",
        "target": "< 0.5 s",
        "measured": f"{beyond:.2f} s (median of pairs {paired:.2f} s)",
    }
    notes = [f"Fresh processes, files in the disk cache; {options.rounds} rounds."]
    report("import_time", [row], seconds, options, notes)


if __name__ == "__main__":
    main()
