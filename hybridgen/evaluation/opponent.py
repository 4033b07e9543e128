"""The model that a critic is trained against: a finished run and the way it is sampled."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.guide_material import fingerprint
from hybridgen.networks.build import load_network
from hybridgen.protocols import Denoiser, Sampler
from hybridgen.sampling.build import SamplerSettings, build_sampler
from hybridgen.sampling.single_pass import SinglePass

Network = Literal["denoiser", "generator"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Opponent:
    """A diffusion model with its sampler, or a GAN, which takes one pass and cannot be guided.

    Attributes:
        name: of the folder that its network is in.
        network: in eval mode, without gradients.
        fingerprint: of its weights.
        sampler: from the network, or for a diffusion model from any other denoiser, to samples.
        sampled: the name of the sampler and its steps, as `guide.json` keeps them.
    """

    name: Network
    network: Any
    fingerprint: str
    sampler: Callable[[Any], Sampler]
    sampled: tuple[str, int]

    @property
    def denoiser(self) -> Denoiser | None:
        """The network, if it can be guided."""
        return self.network if self.name == "denoiser" else None


def opponent_of(
    run: Path, settings: SamplerSettings, shape: tuple[int, ...], device: torch.device | str
) -> Opponent:
    """The model of a finished run.

    Args:
        settings: how a diffusion model is sampled.
        shape: of one sample.

    Raises:
        InputError: the folder holds no finished model, or it cannot be sampled in this way.
    """
    name = network_of(run)
    network: Any = load_network(run / name)
    network = network.to(device).requires_grad_(False)

    def steps(denoiser: Denoiser) -> Sampler:
        return build_sampler(settings, denoiser, shape)

    def one_pass(generator: Any) -> Sampler:
        return SinglePass(generator, (network.config["latent"],))

    diffusion = name == "denoiser"
    if diffusion:
        steps(network)  # refuses settings that cannot work
    return Opponent(
        name=name,
        network=network,
        fingerprint=fingerprint(run, name),
        sampler=steps if diffusion else one_pass,
        sampled=(settings.name, settings.steps) if diffusion else ("single_pass", 1),
    )


def network_of(run: Path) -> Network:
    """The folder that the network of a run is in: of a GAN or of a diffusion model."""
    return "generator" if (run / "generator").is_dir() else "denoiser"


def data_of(run: Path) -> DataSettings:
    """The data settings of a finished run.

    Raises:
        InputError: the folder holds none.
    """
    needed = ("config.yaml", network_of(run), "result.json")
    missing = [name for name in needed if not (run / name).exists()]
    if missing:
        raise InputError(
            f"{run} is not a finished run of experiments/diffusion.py or gan.py (it has no "
            f"{missing[0]}): train one first, or name its folder with --run"
        )
    try:
        return DataSettings(**yaml.safe_load((run / "config.yaml").read_text())["data"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{run / 'config.yaml'} is damaged: train the model again") from error
