"""What the samples of all contenders cost, measured in turns, and kept until somebody changes."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hybridgen.data.source import Source
from hybridgen.evaluation.comparison import Estimate, Expense
from hybridgen.evaluation.contenders import Contender
from hybridgen.evaluation.expense import expenses
from hybridgen.evaluation.guidance_effect import labels_of
from hybridgen.evaluation.kept import code, kept, machine
from hybridgen.maths.cost import Cost
from hybridgen.maths.draws import rng_for


def timed(
    contenders: Sequence[Contender], source: Source, *, batch: int, rounds: int, folder: Path
) -> dict[str, Expense]:
    """What a sample costs, name of the row -> expense.

    Times are comparable only if they were measured together, so a new row, another batch or
    another number of threads measures all of them again.

    Args:
        batch: samples made together.
        rounds: timed batches of each contender, at most.
        folder: where measurements are kept.
    """
    label = labels_of(source, batch)
    samplers = {c.name: c.sampler for c in contenders}
    noise = {
        c.name: torch.randn(batch, *c.sampler.noise_shape, generator=rng_for("timing")).to(c.like)
        for c in contenders
    }
    device = contenders[0].like.device
    labels = {c.name: None if label is None else label.to(device) for c in contenders}
    key = {
        "timed": [[c.name, dict(c.key)] for c in contenders],
        "batch": batch,
        "rounds": rounds,
        "machine": machine(),
        "code": code(),
        "device": str(device),
    }

    def measured() -> Any:
        found = expenses(samplers, noise, labels, rounds=rounds)
        return {name: asdict(expense) for name, expense in found.items()}

    return {name: _read(said) for name, said in kept(folder, key, measured).items()}


def _read(said: dict[str, Any]) -> Expense:
    calls = None if said["calls"] is None else Cost(**said["calls"])
    return Expense(**{**said, "calls": calls, "seconds": Estimate(**said["seconds"])})
