"""The log of a run: one JSON object a line, as an Accelerate tracker beside any other."""

import json
import math
import os
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker

from hybridgen.training.files import write_atomically


class JsonLines(GeneralTracker):
    """Appends every logged dictionary to a file; the first key of a line is `step`.

    Numbers that JSON does not know (NaN, infinity) become null.
    """

    name = "jsonl"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    @property
    def tracker(self) -> Path:
        return self._path

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Nothing: the settings are in config.yaml."""

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        clean = {k: None if _unknown(v) else v for k, v in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **clean}) + os.linesep)

    def rows(self) -> list[dict[str, Any]]:
        """What was logged so far; a last line cut short by a kill is left out."""
        if not self._path.exists():
            return []
        rows = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that will be made again."""
        kept = [json.dumps(row) for row in self.rows() if row["step"] <= step]
        write_atomically(self._path, "".join(line + os.linesep for line in kept))


def _unknown(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
