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
    FinishedGuide,
    config_of,
    fingerprint,
    finished_guide,
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
class Contender:
    """A method at one budget, ready to sample.

    Attributes:
        kind: of method, for colours: that of the model, and `guided` or `refined`.
        like: a tensor of the type and on the device that the model computes with.
        key: all that its samples depend on beside the noise.
        details: the same for a reader.
        caveat: a sentence if its guide or critic knows the errors of another sampler or other
            steps than these; else empty.
    """

    method: Method
    budget: Budget
    kind: str
    sampler: Sampler
    like: Tensor
    key: Mapping[str, Any]
    details: Mapping[str, str]
    caveat: str

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


def contenders(
    methods: tuple[Method, ...],
    runs: Mapping[str, Path],
    source: Source,
    *,
    device: torch.device | str = "cpu",
) -> list[Contender]:
    """Every method at each of its budgets.

    Args:
        methods: as settings name them.
        runs: name -> folder of a finished run, critics included.
        source: what all of them were trained on.

    Raises:
        InputError: a run that nobody named, a critic of another model, a budget that a sampler
            cannot meet, two rows of one name.
    """
    networks: dict[Path, Any] = {}
    found = [c for m in methods for c in _at_each_budget(m, runs, source, device, networks)]
    names = [contender.name for contender in found]
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
) -> Iterator[Contender]:
    method.check_names(runs)
    run = runs[method.model]
    kind = kind_of(run)
    method.check_kind(kind)
    weights = run / network_of(run)
    if weights not in networks:
        networks[weights] = load_network(weights)
    network = networks[weights].to(device).requires_grad_(False)
    guide = _critic(method, method.guide, run, runs, device)
    critic = _critic(method, method.critic, run, runs, device)
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
                denoiser = discriminator_guidance(denoiser, guide.critic, scale, window=window)
            sampler = build_sampler(settings, denoiser, source.shape)
        if critic is not None:
            log_ratio = critic.log_ratio
            calibration = asdict(log_ratio.calibration)
            key |= {"critic": critic.fingerprint, "calibration": calibration}
            key |= {"how": method.how, "rounds": budget.rounds}
            sampler = Refined(
                sampler,
                log_ratio,
                method.how,
                rounds=budget.rounds,
                log_bound=critic.log_bound,
                acceptance=critic.acceptance,
            )
        yield Contender(
            method=method,
            budget=budget,
            kind=kind + ", guided" * (guide is not None) + ", refined" * (critic is not None),
            sampler=sampler,
            like=next(network.parameters()),
            key=key,
            details=_details(run, key, guide, critic),
            caveat=_caveat(method, budget, kind, guide, critic),
        )


def _critic(
    method: Method,
    name: str | None,
    run: Path,
    runs: Mapping[str, Path],
    device: torch.device | str,
) -> FinishedGuide | None:
    if name is None:
        return None
    found = finished_guide(runs[name])
    if found.run.resolve() != run.resolve():
        raise InputError(
            f"{method.name}: {runs[name]} is a critic for {found.run} and not for {run}: a density "
            "ratio belongs to one model; train one with experiments/critic.py"
        )
    found.critic.to(device).requires_grad_(False)
    return found


def _caveat(
    method: Method,
    budget: Budget,
    kind: Kind,
    guide: FinishedGuide | None,
    critic: FinishedGuide | None,
) -> str:
    if kind == "gan":
        return ""
    settings = method.sampler_settings(budget.calls)
    for asked in (guide, critic):
        if asked is not None and (asked.sampler, asked.steps) != (settings.name, settings.steps):
            return (
                f"{method.name} at {budget.calls} calls asks a critic that was trained on samples "
                f"of {asked.sampler} with {asked.steps} steps: it knows the errors of those, so "
                "this is no test of what such a critic can do here."
            )
    return ""


def _details(
    run: Path,
    key: Mapping[str, Any],
    guide: FinishedGuide | None,
    critic: FinishedGuide | None,
) -> dict[str, str]:
    said = {"model": run.name}
    if "sampler" in key:
        said["sampler"] = ", ".join(f"{name} {value}" for name, value in key["sampler"].items())
    for use, asked in (("guide", guide), ("critic", critic)):
        if asked is not None:
            blessed = "blessed" if asked.blessed else "not blessed"
            said[use] = f"{asked.folder.name}, {blessed}, for {asked.sampler}, {asked.steps} steps"
    if guide is not None:
        low, high = guide.window
        said["guidance"] = f"scale {key['scale']:g}, asked at noise levels {low:.3g} to {high:.3g}"
    if critic is not None:
        said["refinement"] = f"{key['how']}, {key['rounds']} rounds"
    return said
