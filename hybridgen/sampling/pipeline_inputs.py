"""A pipeline's inputs, checked: noise, labels, form of output, and what its guide is for."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.utils.pil_utils import numpy_to_pil
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from torch import Tensor

from hybridgen.sampling.conversions import SCHEDULERS

Generators = torch.Generator | list[torch.Generator] | None


def starting_noise(
    latents: Tensor | None, shape: tuple[int, ...], generator: Generators, weight: Tensor
) -> Tensor:
    """`latents` or a fresh draw `[b ...]`, standard normal, on the device of `weight`.

    Raises:
        ValueError: another shape, no samples, a list of generators of another length, or a
            precision in which sums of noise and data have no digits left.
    """
    device, dtype = weight.device, weight.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the denoiser is in {dtype}, but samples are made in float32 or float64: keep its "
            "weights in float32 and call the pipeline inside torch.autocast"
        )
    if latents is not None:
        if tuple(latents.shape[1:]) != shape[1:] or len(latents) == 0:
            raise ValueError(f"expected latents [b, *{list(shape[1:])}], got {list(latents.shape)}")
        return latents.to(device, dtype)
    if shape[0] < 1:
        raise ValueError(f"batch_size must be at least 1, got {shape[0]}")
    if isinstance(generator, list) and len(generator) not in (1, shape[0]):
        raise ValueError(
            f"got {len(generator)} generators for batch_size {shape[0]}; give one each"
        )
    return randn_tensor(shape, generator=generator, device=device, dtype=dtype)


def labels_of(
    class_labels: Tensor | Sequence[int] | int | None, classes: int, noise: Tensor
) -> Tensor | None:
    """Labels `[b]` beside `noise [b ...]`; a single one is for all samples.

    Raises:
        ValueError: labels for a model without classes, of another number, or out of range.
    """
    if class_labels is None:
        return None
    if classes == 0:
        raise ValueError("this model knows no classes, but class_labels were given: leave them out")
    label = torch.as_tensor(class_labels, device=noise.device)
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise ValueError(f"class_labels are integers, got {label.dtype}")
    label = label.long().expand(len(noise)) if label.ndim == 0 else label.long()
    if label.shape != (len(noise),):
        raise ValueError(
            f"expected one class label or {len(noise)} of them, got shape {list(label.shape)}"
        )
    if bool(((label < 0) | (label >= classes)).any()):
        raise ValueError(f"class_labels lie in 0..{classes - 1}, got {sorted(set(label.tolist()))}")
    return label


def check_output(output_type: str, shape: tuple[int, ...]) -> None:
    """Refuse a form of output that samples of this `shape` do not have with a `ValueError`."""
    image = len(shape) == 3
    available = ["pil", "np", "pt"] if image else ["np", "pt"]
    if output_type not in available:
        kind = "images" if image else f"samples of shape {list(shape)}"
        raise ValueError(f"output_type for {kind} is one of {available}, got {output_type!r}")
    if output_type == "pil" and shape[0] not in (1, 3, 4):
        raise ValueError(
            f"no picture file has {shape[0]} channels: ask for output_type 'np' or 'pt'"
        )


def present(samples: Tensor, output_type: str) -> Any:
    """Images from [-1, 1] to [0, 1] as `pt [b c h w]`, `np [b h w c]` or `pil`; points as they are.

    What lies outside [-1, 1] is cut off.
    """
    image = samples.ndim == 4
    if image:
        samples = (samples / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return samples
    if image:
        samples = rearrange(samples, "b c h w -> b h w c")
    array: np.ndarray = samples.cpu().numpy()
    return numpy_to_pil(array) if output_type == "pil" else array


def check_trained_for(trained_for: Mapping[str, Any] | None) -> None:
    """Refuse what is not `{"sampler": name, "steps": number, ...}` or `None`: a `ValueError`."""
    if trained_for is None:
        return
    facts = trained_for if isinstance(trained_for, Mapping) else {}
    sampler, steps = facts.get("sampler"), facts.get("steps")
    if not isinstance(sampler, str) or not isinstance(steps, int) or steps < 1:
        raise ValueError(
            'trained_for is {"sampler": its name, "steps": their number} or None, '
            f"got {trained_for!r}"
        )


def warn_if_mismatched(trained_for: Mapping[str, Any] | None, scheduler: Any, steps: int) -> None:
    """Warn, naming both, where a guide meets another scheduler or number of steps than its own.

    A guide learned the errors of one sampler; those of another may be others, or none.
    """
    if trained_for is None:
        return
    sampler, used = trained_for["sampler"], type(scheduler).__name__
    # EDM's Heun takes the steps of diffusers' on the same levels.
    equivalent = SCHEDULERS.get("heun_discrete" if sampler == "heun" else sampler)
    same = used == (sampler if equivalent is None else equivalent.kind)
    if sampler == "heun":
        same = same and bool(scheduler.config.get("use_karras_sigmas"))
    if same and trained_for["steps"] == steps:
        return
    warnings.warn(
        f"this guide was trained on samples of {sampler}, {trained_for['steps']} steps, and is "
        f"used with {used}, {steps} steps: it corrects errors that these samples may not have; "
        "compare with guidance_scale=0, or train a guide for this sampler",
        UserWarning,
        stacklevel=4,  # the caller of the pipeline, past the wrapper of torch.no_grad
    )
