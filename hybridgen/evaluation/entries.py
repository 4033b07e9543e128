"""Entries of a comparison: methods at their budgets, on finished runs, as samplers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridgen.data.source import Source
from hybridgen.errors import InputError
from hybridgen.evaluation.methods import Budget, Method
from hybridgen.evaluation.runs import SavedGuide, SavedRun, load_guide
from hybridgen.protocols import Sampler
from hybridgen.sampling.build import build_sampler
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.sampling.refinement import Refined
from hybridgen.sampling.samplers import SinglePass

Runs = Mapping[str, Sequence[SavedRun]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A method at one budget on one training, ready to sample.

    Attributes:
        kind: of method, for colours: that of the model, and `guided` or `refined`.
        like: a tensor of the type and on the device that the model computes with.
        key: all that its samples depend on beside the noise.
        details: the same for a reader.
        warning: a sentence if its guide or discriminator knows the errors of another sampler or
            other steps than these; else empty.
    """

    method: Method
    budget: Budget
    kind: str
    sampler: Sampler
    like: Tensor
    key: Mapping[str, Any]
    details: Mapping[str, str]
    warning: str

    @property
    def name(self) -> str:
        """Method and budget."""
        return ", ".join(filter(None, (self.method.name, self.budget.words)))


def build_entries(
    methods: Sequence[Method], runs: Runs, source: Source, *, device: torch.device | str = "cpu"
) -> list[tuple[Entry, ...]]:
    """Every method at each of its budgets: a row each, of one entry for each training.

    Args:
        methods: as settings name them.
        runs: name -> finished runs, one for each training, discriminators included.
        source: what all of them were trained on.

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
        guides = _for_each_model(method, method.guide, runs, device)
        discriminators = _for_each_model(method, method.discriminator, runs, device)
        scales = {guide.scale for guide in guides.values()}
        if len(scales) > 1 and not method.scales:
            raise InputError(
                f"{method.name}: its guides were given different scales ({sorted(scales)}): name "
                "scales that all of them take"
            )
        trainings = [
            list(_at_each_budget(method, run, network(run), guides, discriminators, source))
            for run in runs[method.model]
        ]
        rows += zip(*trainings, strict=True)
    names = [row[0].name for row in rows]
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise InputError(f"two rows are called {repeated[0]!r}: give the methods different names")
    return rows


def _for_each_model(
    method: Method, name: str | None, runs: Runs, device: torch.device | str
) -> dict[Path, SavedGuide]:
    """The runs called `name`, by the resolved folders of the models that they judge."""
    guides: dict[Path, SavedGuide] = {}
    if name is None:
        return guides
    models = [run.folder for run in runs[method.model]]
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
    return guides


def _at_each_budget(
    method: Method,
    run: SavedRun,
    network: Any,
    guides: Mapping[Path, SavedGuide],
    discriminators: Mapping[Path, SavedGuide],
    source: Source,
) -> Iterator[Entry]:
    kind, fingerprint = run.kind, run.fingerprint
    method.check_kind(kind)
    guide = guides.get(run.folder.resolve())
    discriminator = discriminators.get(run.folder.resolve())
    for budget in method.budgets(guide.scale if guide is not None else 0.0):
        key: dict[str, Any] = {"model": fingerprint}
        if kind == "gan":
            sampler: Sampler = SinglePass(network, (network.config["latent"],))
        else:
            denoiser, settings = network, method.sampler_settings(budget.calls)
            key["sampler"] = asdict(settings)
            if guide is not None:
                scale, window = budget.scale or 0.0, guide.window
                key |= {"guide": guide.fingerprint, "scale": scale, "window": window}
                denoiser = discriminator_guidance(
                    denoiser, guide.discriminator, scale, window=window
                )
            sampler = build_sampler(settings, denoiser, source.shape)
        if discriminator is not None:
            log_ratio = discriminator.log_ratio
            calibration = asdict(log_ratio.calibration)
            key |= {"discriminator": discriminator.fingerprint, "calibration": calibration}
            key |= {"how": method.how, "rounds": budget.rounds}
            sampler = Refined(
                sampler,
                log_ratio,
                method.how,
                rounds=budget.rounds,
                log_bound=discriminator.log_bound,
                acceptance=discriminator.acceptance,
            )
        yield Entry(
            method=method,
            budget=budget,
            kind=kind
            + ", guided" * (guide is not None)
            + ", refined" * (discriminator is not None),
            sampler=sampler,
            like=next(network.parameters()),
            key=key,
            details=_details(run, key, guide, discriminator),
            warning="" if kind == "gan" else _warning(method, budget, guide, discriminator),
        )


def _warning(
    method: Method, budget: Budget, guide: SavedGuide | None, discriminator: SavedGuide | None
) -> str:
    settings = method.sampler_settings(budget.calls)
    for used in (guide, discriminator):
        if used is not None and (used.sampler, used.steps) != (settings.name, settings.steps):
            return (
                f"{method.name} at {budget.calls} calls asks a discriminator that was trained on "
                f"samples of {used.sampler} with {used.steps} steps: it knows the errors of those, "
                "so this is no test of what such a discriminator can do here."
            )
    return ""


def _details(
    run: SavedRun,
    key: Mapping[str, Any],
    guide: SavedGuide | None,
    discriminator: SavedGuide | None,
) -> dict[str, str]:
    details = {"model": run.folder.name}
    if "sampler" in key:
        details["sampler"] = ", ".join(f"{name} {value}" for name, value in key["sampler"].items())
    for use, used in (("guide", guide), ("discriminator", discriminator)):
        if used is not None:
            significant = "significant" if used.significant else "not significant"
            details[use] = (
                f"{used.folder.name}, {significant}, for {used.sampler}, {used.steps} steps"
            )
    if guide is not None:
        low, high = guide.window
        details["guidance"] = (
            f"scale {key['scale']:g}, asked at noise levels {low:.3g} to {high:.3g}"
        )
    if discriminator is not None:
        details["refinement"] = f"{key['how']}, {key['rounds']} rounds"
    return details
