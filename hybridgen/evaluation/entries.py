"""Who takes part in a comparison: methods at their budgets, on finished runs, as samplers."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hybridgen.data.source import Source
from hybridgen.errors import InputError
from hybridgen.evaluation.methods import Budget, Method
from hybridgen.evaluation.runs import (
    SavedGuide,
    config_of,
    fingerprint,
    load_guide,
    network_of,
)
from hybridgen.networks.build import load_network
from hybridgen.protocols import Sampler
from hybridgen.sampling.build import build_sampler
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.sampling.refinement import Refined
from hybridgen.sampling.samplers import SinglePass

Kind = Literal["gan", "diffusion", "hybrid"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A method at one budget, ready to sample.

    Attributes:
        kind: of method, for colours: that of the model, and `guided` or `refined`.
        like: a tensor of the type and on the device that the model computes with.
        key: all that its samples depend on beside the noise.
        details: the same for a reader.
        caveat: a sentence if its guide or discriminator knows the errors of another sampler or
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


def kind_of(folder: Path) -> Kind:
    """What sort of generative model a finished run holds.

    Raises:
        InputError: it holds none.
    """
    config, finished = config_of(folder), (folder / "result.json").is_file()
    if finished and (folder / "generator").is_dir():
        return "gan"
    if finished and (folder / "denoiser").is_dir():
        term = config.get("adversarial") or {}
        return "diffusion" if term.get("source") is None else "hybrid"
    raise InputError(
        f"{folder} holds no finished generator or denoiser: let its training end first, or name "
        "another folder"
    )


def entries(
    methods: tuple[Method, ...],
    runs: Mapping[str, Path],
    source: Source,
    *,
    device: torch.device | str = "cpu",
) -> list[Entry]:
    """Every method at each of its budgets.

    Args:
        methods: as settings name them.
        runs: name -> folder of a finished run, discriminators included.
        source: what all of them were trained on.

    Raises:
        InputError: a run that nobody named, a discriminator of another model, a budget that a
            sampler cannot meet, two rows of one name.
    """
    networks: dict[Path, Any] = {}
    found = [c for m in methods for c in _at_each_budget(m, runs, source, device, networks)]
    names = [entry.name for entry in found]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InputError(f"two rows are called {twice[0]!r}: give the methods different names")
    return found


def _at_each_budget(
    method: Method,
    runs: Mapping[str, Path],
    source: Source,
    device: torch.device | str,
    networks: dict[Path, Any],
) -> Iterator[Entry]:
    method.check_names(runs)
    run = runs[method.model]
    kind = kind_of(run)
    method.check_kind(kind)
    weights = run / network_of(run)
    if weights not in networks:
        networks[weights] = load_network(weights)
    network = networks[weights].to(device).requires_grad_(False)
    guide = _discriminator(method, method.guide, run, runs, device)
    discriminator = _discriminator(method, method.discriminator, run, runs, device)
    for budget in method.budgets(guide.scale if guide is not None else 0.0):
        key: dict[str, Any] = {"model": fingerprint(run, weights.name)}
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
            warning=_caveat(method, budget, kind, guide, discriminator),
        )


def _discriminator(
    method: Method,
    name: str | None,
    run: Path,
    runs: Mapping[str, Path],
    device: torch.device | str,
) -> SavedGuide | None:
    if name is None:
        return None
    found = load_guide(runs[name])
    if found.run.resolve() != run.resolve():
        raise InputError(
            f"{method.name}: {runs[name]} is a discriminator for {found.run} and not for {run}: "
            f"a density "
            "ratio belongs to one model; train one with experiments/guide.py"
        )
    found.discriminator.to(device).requires_grad_(False)
    return found


def _caveat(
    method: Method,
    budget: Budget,
    kind: Kind,
    guide: SavedGuide | None,
    discriminator: SavedGuide | None,
) -> str:
    if kind == "gan":
        return ""
    settings = method.sampler_settings(budget.calls)
    for asked in (guide, discriminator):
        if asked is not None and (asked.sampler, asked.steps) != (settings.name, settings.steps):
            return (
                f"{method.name} at {budget.calls} calls asks a discriminator that was trained on "
                f"samples "
                f"of {asked.sampler} with {asked.steps} steps: it knows the errors of those, so "
                "this is no test of what such a discriminator can do here."
            )
    return ""


def _details(
    run: Path,
    key: Mapping[str, Any],
    guide: SavedGuide | None,
    discriminator: SavedGuide | None,
) -> dict[str, str]:
    said = {"model": run.name}
    if "sampler" in key:
        said["sampler"] = ", ".join(f"{name} {value}" for name, value in key["sampler"].items())
    for use, asked in (("guide", guide), ("discriminator", discriminator)):
        if asked is not None:
            significant = "significant" if asked.significant else "not significant"
            said[use] = (
                f"{asked.folder.name}, {significant}, for {asked.sampler}, {asked.steps} steps"
            )
    if guide is not None:
        low, high = guide.window
        said["guidance"] = f"scale {key['scale']:g}, asked at noise levels {low:.3g} to {high:.3g}"
    if discriminator is not None:
        said["refinement"] = f"{key['how']}, {key['rounds']} rounds"
    return said
