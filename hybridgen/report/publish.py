"""A comparison as files: flat numbers for programs, a table, pictures and the page for people."""

import json
import math
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from hybridgen.errors import InputError
from hybridgen.evaluation.results import Comparison
from hybridgen.evaluation.settings import file_words
from hybridgen.files import read_object, replacing, write_atomically
from hybridgen.report import markdown, write_page
from hybridgen.report.charts import chart_title, draw, marks_of
from hybridgen.report.ranking import finite_rows, ranked
from hybridgen.report.svg import LIGHT, LOOK
from hybridgen.report.text import printable


def publish(comparison: Comparison, folder: Path) -> None:
    """Write `result.json`, `table.md`, `front.png`, `calls.png` if rows make different numbers of
    denoiser calls, `report.html` and the samples of each row.

    Samples of rows that an earlier `result.json` in `folder` has are removed.
    """
    pictures, result = folder / "samples", folder / "result.json"
    pictures.mkdir(parents=True, exist_ok=True)
    with suppress(InputError):  # none yet, or a damaged one
        for name in read_object(result):
            if name.endswith("/flops"):
                (pictures / _file_name(name.removesuffix("/flops"))).unlink(missing_ok=True)
    for row in comparison.rows:
        write_atomically(pictures / _file_name(row.name), row.picture)
    write_atomically(pictures / "real.png", comparison.real_picture)
    save_chart(comparison, folder / "front.png")
    save_chart(comparison, folder / "calls.png", price="calls")
    write_atomically(folder / "table.md", markdown(comparison))
    write_page(comparison, folder / "report.html")
    write_atomically(result, json.dumps(flat(comparison), indent=1) + "\n")


def _file_name(row: str) -> str:
    return f"{file_words(row)}.png"


def save_chart(comparison: Comparison, path: Path, *, price: str = "seconds") -> None:
    """Quality against seconds or denoiser calls as a picture, with a legend.

    Below that against seconds, samples of the best row of each kind, beside real ones. Rows whose
    figure is not finite are left out; none is written of calls that are all alike.
    """
    metric = comparison.quality
    rows = finite_rows(comparison.rows, metric)
    best = {row.kind: row for row in reversed(ranked(rows, metric))}
    samples = [("real", comparison.real_picture)]
    samples += [(row.name, row.picture) for row in rows if best[row.kind] is row]
    samples = [(name, picture) for name, picture in samples if picture and price == "seconds"]
    with rc_context(LOOK | {"font.size": 8, "axes.titlesize": 9, "lines.markersize": 6}):
        figure = Figure(figsize=(9.6, 6.4 if samples else 4.4), layout="constrained")
        figure.suptitle(printable(comparison.title), fontsize=10, x=0.01, ha="left")
        parts: Any = figure.subfigures(2, 1, height_ratios=(2.4, 1)) if samples else [figure]
        axes = parts[0].subplots()
        axes.set_title(chart_title(comparison, metric))
        legend = draw(axes, marks_of(comparison, metric, price), metric, price)
        if price == "calls" and not legend:
            path.unlink(missing_ok=True)  # of an earlier comparison
            return
        handles = [
            Line2D([], [], color=LIGHT[c], marker=mark, ls=dashes, label=printable(label))
            for label, c, mark, dashes in legend
        ]
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
        for part in parts[1:]:
            grid = part.subplots(1, len(samples), squeeze=False)[0]
            for place, (name, picture) in zip(grid, samples, strict=True):
                with Image.open(BytesIO(picture)) as image:
                    place.imshow(np.asarray(image.convert("RGB")), interpolation="lanczos")
                place.set_title(fill(printable(name), 20), fontsize=6.5)
                place.set_axis_off()
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=150)


def flat(comparison: Comparison) -> dict[str, float | None]:
    """`row/metric`, with `_low` and `_high`; `row/seconds` and other costs; `floor_metric`.

    Of a mean over several trainings also `row/metric_se` and `row/trainings`.
    What is not finite is `None`, which JSON has a word for.
    """
    figures: dict[str, float] = {}
    for row in comparison.rows:
        cost, start = row.cost, f"{row.name}/"
        for metric, estimate in {**row.figures, "seconds": cost.seconds}.items():
            ends = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
            figures |= {f"{start}{metric}{end}": value for end, value in ends.items()}
            if estimate.standard_error is not None:
                figures[f"{start}{metric}_se"] = estimate.standard_error
            if estimate.floor is not None:
                figures[f"floor_{metric}"] = estimate.floor
        if row.trainings > 1:
            figures[f"{start}trainings"] = row.trainings
        figures |= {f"{start}flops": cost.flops, f"{start}peak_bytes": cost.peak_bytes}
        if cost.calls is not None:
            figures |= {f"{start}{name}_calls": n for name, n in asdict(cost.calls).items()}
    for model in comparison.models:
        figures |= {f"training/{model.name}/{name}": fact for name, fact in model.facts.items()}
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}
