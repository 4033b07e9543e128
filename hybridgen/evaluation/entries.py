"""Entries of a comparison: methods at their budgets, on finished runs, as samplers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridgen.data.source import Source
from hybridgen.errors import InputError
from hybridgen.evaluation.guide import SampledModel
from hybridgen.evaluation.runs import SavedGuide, SavedRun, load_guide
from hybridgen.evaluation.settings import Budget, Method, file_words
from hybridgen.protocols import Sampler
from hybridgen.sampling.refinement import Refined

Runs = Mapping[str, Sequence[SavedRun]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A method at one budget on one training, ready to sample.

    Attributes:
        kind: of method, for colours: that of the model, and `guided` or `refined`.
        classes: of labels that the model takes, which others of the comparison need not; 0 for
            none.
        like: a tensor of the type and on the device that the model computes with.
        key: all that its samples depend on beside the noise.
        details: the same for a reader.
        warning: a sentence if its guide or discriminator knows the errors of another sampler or
            other steps than these; else empty.
        validation_note: words beside its name if its guide or discriminator failed validation; else
            empty.
    """

    method: Method
    budget: Budget
    kind: str
    sampler: Sampler
    classes: int
    like: Tensor
    key: Mapping[str, Any]
    details: Mapping[str, str]
    warning: str
    validation_note: str

    @property
    def name(self) -> str:
        """Method and budget."""
        return ", ".join(filter(None, (self.method.name, self.budget.words)))


def build_entries(
    methods: Sequence[Method], runs: Runs, source: Source, *, device: torch.device | str = "cpu"
) -> list[tuple[Entry, ...]]:
    """Every method at each of its budgets: a row each, of one entry for each training.

    Args:
        runs: name -> finished runs, one for each training, discriminators included; all of them
            were trained on `source`.

    Raises:
        InputError: a run that nobody named, a discriminator of another model, a budget that a
            sampler cannot meet, two rows of one name, guides of one method that were given
            different scales.
    """

    @cache
    def network(run: SavedRun) -> Any:
        return run.network.to(device).requires_grad_(False)

    rows: list[tuple[Entry, ...]] = []
    for method in methods:
        method.check_names(runs)
        models = runs[method.model]
        guides = _for_each_model(method, method.guide, runs, device)
        discriminators = _for_each_model(method, method.discriminator, runs, device)
        scales = {guide.scale for guide in guides if guide is not None}
        if len(scales) > 1 and not method.scales:
            raise InputError(
                f"{method.name}: its guides were given different scales ({sorted(scales)}): name "
                "scales that all of them take"
            )
        for budget in method.budgets(max(scales, default=0.0)):
            trainings = zip(models, map(network, models), guides, discriminators, strict=True)
            rows.append(tuple(_entry(method, budget, source, *each) for each in trainings))
    names = [file_words(row[0].name) for row in rows]
    for row, name in zip(rows, names, strict=True):
        if names.count(name) > 1:
            raise InputError(
                f"two rows, or their pictures, are called {row[0].name!r}: give the methods "
                "different names"
            )
    return rows


def _for_each_model(
    method: Method, name: str | None, runs: Runs, device: torch.device | str
) -> list[SavedGuide | None]:
    """Of the runs called `name`, the one for each model of the method."""
    models = [run.folder for run in runs[method.model]]
    if name is None:
        return [None] * len(models)
    guides: dict[Path, SavedGuide] = {}
    for run in runs[name]:
        guide = load_guide(run.folder)
        if guide.run.resolve() not in [model.resolve() for model in models]:
            raise InputError(
                f"{method.name}: {run.folder} is a discriminator for {guide.run} and not for "
                f"{', '.join(map(str, models))}: a density ratio belongs to one model; train one "
                "with experiments/guide.py"
            )
        guide.discriminator.to(device).requires_grad_(False)
        guides[guide.run.resolve()] = guide
    if not len(models) == len(guides) == len(runs[name]):
        raise InputError(
            f"{method.name}: {name!r} has {len(runs[name])} discriminators for {len(guides)} of "
            f"{len(models)} trainings of {method.model!r}: expected one for each"
        )
    return [guides[model.resolve()] for model in models]


def _entry(
    method: Method,
    budget: Budget,
    source: Source,
    run: SavedRun,
    network: Any,
    guide: SavedGuide | None,
    discriminator: SavedGuide | None,
) -> Entry:
    kind, warning = run.kind, ""
    method.check_kind(kind)
    key: dict[str, Any] = {"model": run.fingerprint}
    details = {"model": run.folder.name}
    settings = None if kind == "gan" else method.sampler_settings(budget.calls)
    if kind == "student":  # whose levels are its own
        settings = run.student.with_calls(budget.calls)
    model = SampledModel(source=source, network=network, settings=settings)
    if settings is not None:
        key["sampler"] = asdict(settings)
        details["sampler"] = ", ".join(f"{name} {value}" for name, value in key["sampler"].items())
        for used in filter(None, (discriminator, guide)):
            if (used.sampler, used.steps) != (settings.name, settings.steps):
                warning = (
                    f"{method.name} at {budget.calls} calls asks a discriminator that was trained "
                    f"on samples of {used.sampler} with {used.steps} steps: it knows the errors of "
                    "those, so this is no test of what such a discriminator can do here."
                )
        if guide is not None:
            kind += ", guided"
            scale, (low, high) = budget.scale or 0.0, guide.window
            key |= {"guide": guide.fingerprint, "scale": scale, "window": guide.window}
            reach = f"scale {scale:g}, asked at noise levels {low:.3g} to {high:.3g}"
            details |= {"guide": _words(guide), "guidance": reach}
            model = replace(model, guide=guide.discriminator, scale=scale, window=guide.window)
    sampler = model.sampler
    if discriminator is not None:
        kind += ", refined"
        how, rounds, log_ratio = method.how, budget.rounds, discriminator.log_ratio
        calibration = log_ratio.calibration
        key |= {"discriminator": discriminator.fingerprint, "calibration": asdict(calibration)}
        key |= {"how": how, "rounds": rounds}
        details |= {"discriminator": _words(discriminator), "refinement": f"{how}, {rounds} rounds"}
        bounds = calibration.log_bound, calibration.acceptance
        sampler = Refined(sampler, log_ratio, how, rounds, *bounds)
    used = {"guide": guide, "discriminator": discriminator}
    failed = [noun for noun, each in used.items() if each is not None and not each.significant]
    return Entry(
        method=method,
        budget=budget,
        kind=kind,
        sampler=sampler,
        classes=network.config["classes"] if hasattr(network, "config") else network.classes,
        like=next(network.parameters()),
        key=key,
        details=details,
        warning=warning,
        validation_note=f"its {' and '.join(failed)} failed validation" if failed else "",
    )


def _words(guide: SavedGuide) -> str:
    significant = "significant" if guide.significant else "not significant"
    return f"{guide.folder.name}, {significant}, for {guide.sampler}, {guide.steps} steps"
