"""What is known of a finished run: what its training took, and how it went."""

from collections.abc import Mapping
from pathlib import Path

from hybridgen.evaluation.comparison import Trained
from hybridgen.evaluation.curves import series
from hybridgen.evaluation.finished import config_of, result_of
from hybridgen.networks.build import load_network
from hybridgen.training.tracking import JsonLines

DRAWN = (
    "critic",
    "generator",
    "denoising",
    "separation",
    "held_out",
    "frechet_distance",
    "coverage",
    "sliced_wasserstein",
    "high_quality",
)
"""Quantities of a log that a page shows, of those that there are."""
POINTS = 120
"""Of a drawn curve."""
PARTS = ("generator", "denoiser", "critic")

Curves = Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]


def biography(name: str, folder: Path, command: str) -> Trained:
    """Budgets, curves and settings of a run.

    `facts`: steps, batch, images (steps times batch), seconds of training and in all, and
    parameters of each network.
    """
    config, result = config_of(folder), result_of(folder)
    batch = int(config["training"]["batch"])
    facts: dict[str, float] = {"steps": result.get("steps") or 0, "batch": batch}
    facts["images"] = facts["steps"] * batch
    for known in ("seconds", "seconds_in_all"):
        if result.get(known) is not None:
            facts[known] = float(result[known] or 0)
    for part in PARTS:
        if (folder / part).is_dir():
            network = load_network(folder / part)
            facts[f"{part}_parameters"] = sum(p.numel() for p in network.parameters())
    return Trained(
        name=name,
        command=command,
        facts=facts,
        curves=drawn_curves(folder / "log.jsonl"),
        settings=(folder / "config.yaml").read_text(),
    )


def drawn_curves(log: Path) -> Curves:
    """Quantities of a log worth a look, each in at most 120 means of neighbouring values."""
    found = series(JsonLines(log).rows())
    return {name: _thinned(*found[name]) for name in DRAWN if len(found.get(name, ((), ()))[0]) > 1}


def _thinned(
    steps: list[float], values: list[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    width = -(-len(steps) // POINTS)
    parts = [slice(i, i + width) for i in range(0, len(steps), width)]
    return tuple(_mean(steps[p]) for p in parts), tuple(_mean(values[p]) for p in parts)


def _mean(values: list[float]) -> float:
    return float(f"{sum(values) / len(values):.5g}")
