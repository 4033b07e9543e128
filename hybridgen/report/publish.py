"""A comparison as files: flat numbers for programs, a table, pictures and the page for people."""

import json
import math
from pathlib import Path

from hybridgen.evaluation.results import Comparison
from hybridgen.report import markdown, write_page
from hybridgen.report.front_picture import draw_front
from hybridgen.training.checkpoint import write_atomically


def publish(comparison: Comparison, folder: Path) -> None:
    """Write `result.json`, `table.md`, `front.png`, `report.html` and the samples of each row."""
    pictures = folder / "samples"
    pictures.mkdir(parents=True, exist_ok=True)
    for earlier in pictures.glob("*.png"):
        earlier.unlink()
    for row in comparison.rows:
        name = "-".join("".join(c if c.isalnum() or c == "." else " " for c in row.name).split())
        write_atomically(pictures / f"{name}.png", row.picture)
    write_atomically(pictures / "real.png", comparison.real_picture)
    draw_front(comparison, folder / "front.png")
    write_atomically(folder / "table.md", markdown(comparison))
    write_page(comparison, folder / "report.html")
    write_atomically(folder / "result.json", json.dumps(flat(comparison), indent=1) + "\n")


def flat(comparison: Comparison) -> dict[str, float | None]:
    """`row/metric`, with `_low` and `_high`; `row/seconds` and other costs; `floor_metric`.

    Of a mean over several trainings also `row/metric_se` and `row/trainings`.
    What is not finite is `None`, which JSON has a word for.
    """
    figures: dict[str, float] = {}
    for row in comparison.rows:
        for metric, estimate in row.figures.items():
            figures[f"{row.name}/{metric}"] = estimate.value
            figures[f"{row.name}/{metric}_low"] = estimate.low
            figures[f"{row.name}/{metric}_high"] = estimate.high
            if estimate.standard_error is not None:
                figures[f"{row.name}/{metric}_se"] = estimate.standard_error
            if estimate.floor is not None:
                figures[f"floor_{metric}"] = estimate.floor
        if row.trainings > 1:
            figures[f"{row.name}/trainings"] = row.trainings
        spent = row.cost
        figures[f"{row.name}/seconds"] = spent.seconds.value
        figures[f"{row.name}/seconds_low"] = spent.seconds.low
        figures[f"{row.name}/seconds_high"] = spent.seconds.high
        figures[f"{row.name}/flops"] = spent.flops
        figures[f"{row.name}/peak_bytes"] = spent.peak_bytes
        if spent.calls is not None:
            for network in (
                "denoiser",
                "generator",
                "discriminator_forward",
                "discriminator_backward",
            ):
                figures[f"{row.name}/{network}_calls"] = getattr(spent.calls, network)
    for model in comparison.models:
        figures |= {f"training/{model.name}/{name}": fact for name, fact in model.facts.items()}
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}
