"""`guide` a pipeline of diffusers, and `unguide` it."""

import json
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from hybridgen.protocols import Discriminator
from hybridgen.sampling.conversions import SCHEDULERS
from hybridgen.sampling.guidance import Push, Scale, check_guide, configured
from hybridgen.sampling.guided_network import (
    GuidedNetwork,
    classes_of,
    load_guide_folder,
    uncompiled,
)
from hybridgen.sampling.parametrisation import Parametrisation, parametrisation, saved_scheduler

_NETWORKS = ("unet", "transformer", "transformer_2")


def guide(
    pipe: Any,
    discriminator: Discriminator | str | Path,
    scale: Scale | None = None,
    window: tuple[float, float] | None = None,
    *,
    clip: float | None = None,
    trained_with: Any = None,
    pure_noise: float | None = None,
) -> Any:
    """Guide a pipeline of diffusers: the pipeline itself, its network wrapped.

    Scheduler, text, classifier-free guidance, callbacks and offloading stay the pipeline's own. The
    discriminator sees what the network sees (latents, packed or not, without conditions) in the
    variance-exploding scale and float32, and not the prompt. Both halves of a batch for
    classifier-free guidance get the same push, so that its scale does not multiply it.

    `pipe.save_pretrained` keeps the discriminator in the network's folder, and `from_pretrained`
    of the pipeline's class reads it back where this function has been imported (of the hub, from a
    `snapshot_download`). `unguide` gives back the pipeline as it was.

    Args:
        pipe: any with a `unet` or a `transformer`; one whose network was trained by denoising.
        discriminator: trained on this pipeline's own samples; or the folder of a run of
            `experiments/guide.py`, which also says scale and window.
        scale, window, clip: see `discriminator_guidance`; scale 1 and all levels from `LOWEST` on
            if nothing says another. Levels above 80 count as 80.
        trained_with: the scheduler that the network was trained with, if the pipeline's own is not
            made from its settings and the folder does not say.
        pure_noise: of flow matching, the timestep that the network takes for pure noise, where its
            class does not say.

    Raises:
        ValueError: no network or several, a discriminator that does not fit it, a network of which
            it cannot be told what it is shown and answers, or that is told a guidance scale.
        InputError: no guide in that folder.
    """
    name = network_name(pipe)
    network: Any = getattr(pipe, name)
    inner = uncompiled(network)
    if isinstance(inner, GuidedNetwork):
        raise ValueError("this pipeline is guided already: call unguide(pipe) first")
    guiding: Any = discriminator
    settings, saved = {}, {}
    if isinstance(discriminator, str | Path):
        guiding, settings, saved = load_guide_folder(Path(discriminator))
        _check_guide(Path(discriminator), saved, pipe, scale)
    chosen = {"scale": scale, "window": window, "clip": clip}
    settings |= {key: value for key, value in chosen.items() if value is not None}
    for setting in ("guidance_embeds", "time_cond_proj_dim"):
        if configured(inner, setting):
            raise ValueError(
                f"this {type(inner).__name__} is told a guidance scale ({setting}) and answers "
                "what is guided already, from which no clean estimate can be told: take a "
                "pipeline that is not distilled"
            )
    if trained_with is None and saved.get("trained_with"):
        trained_with = saved_scheduler(saved["trained_with"])
    scheduler = pipe.scheduler if trained_with is None else trained_with
    pure_noise = saved.get("pure_noise") if pure_noise is None else pure_noise
    trained = parametrisation(inner, scheduler, pure_noise)
    check_guide(inner, guiding)
    _check_channels(inner, guiding, trained)
    how = {"trained_with": json.loads(scheduler.to_json_string()), "pure_noise": pure_noise}
    setattr(pipe, name, GuidedNetwork(network, Push(guiding, **settings), trained, how))
    return pipe


def _check_guide(folder: Path, saved: dict[str, Any], pipe: Any, scale: Scale | None) -> None:
    """Refuse what refines a GAN, and warn of a guide that is none, or is one for other samples."""
    sampler, used = saved.get("sampler"), type(pipe.scheduler).__name__
    sampler = SCHEDULERS[sampler].kind if sampler in SCHEDULERS else sampler
    if sampler == "single_pass":
        raise ValueError(
            f"{folder} knows a GAN's finished samples, which it can refine: to guide a pipeline "
            "train a guide on its samples (experiments/guide.py)"
        )
    if scale is None and (not saved["scale"] or saved.get("significant") is False):
        warnings.warn(
            f"{folder} was not significant on held-out samples, or no scale helped (its scale is "
            f"{saved['scale']:g}): the pipeline may be none the better; give scale= to try",
            stacklevel=3,
        )
    if sampler not in (None, used):
        warnings.warn(
            f"{folder} knows the errors of {sampler} with {saved.get('steps')} steps, and this "
            f"pipeline samples by {used}: compare with it unguided",
            stacklevel=3,
        )


def unguide(pipe: Any) -> Any:
    """The pipeline itself, its network as it was before `guide`."""
    name = network_name(pipe)
    network = uncompiled(getattr(pipe, name))
    if not isinstance(network, GuidedNetwork):
        raise ValueError("this pipeline is not guided")
    setattr(pipe, name, network.network)
    return pipe


def network_name(pipe: Any) -> str:
    """Of a pipeline's one network; a `ValueError` if there is none or there are several."""
    names = [name for name in _NETWORKS if isinstance(getattr(pipe, name, None), nn.Module)]
    if len(names) != 1:
        raise ValueError(
            f"a guide stands in the one network of a pipeline, and {type(pipe).__name__} has "
            f"{len(names)} of {', '.join(_NETWORKS)}"
        )
    return names[0]


def label_ids(network: Any) -> int:
    """How many ids of classes a network of diffusers knows, that of "none" perhaps among them."""
    names = ("num_class_embeds", "num_embeds_ada_norm")
    return max(configured(network, name) or 0 for name in names)


def _check_channels(network: Any, discriminator: Any, trained: Parametrisation) -> None:
    """Refuse a discriminator of images with other channels, or of classes that nobody names."""
    shape = getattr(discriminator, "shape", None) or ()
    sizes = [configured(network, name) for name in ("in_channels", "out_channels")]
    if len(shape) == 3 and all(isinstance(size, int) for size in sizes):
        channels = sizes[1] // 2 if trained.variance else min(sizes)
        if shape[0] != channels:
            raise ValueError(
                f"the discriminator was made for samples of shape {tuple(shape)} and this "
                f"{type(network).__name__} works on {channels} channels: train one on what the "
                "network sees (experiments/guide.py)"
            )
    classes, most = classes_of(discriminator), label_ids(network)
    if classes and most not in (classes, classes + 1):
        raise ValueError(
            f"the discriminator knows {classes} classes and this {type(network).__name__} {most}: "
            "train one on samples of this pipeline (experiments/guide.py)"
        )
