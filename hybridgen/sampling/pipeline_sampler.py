"""A pipeline of diffusers as a sampler: what its scheduler arrives at."""

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.maths.rng import rng_from
from hybridgen.protocols import Cost
from hybridgen.sampling.guidance import Push
from hybridgen.sampling.guide import guide, network_name, unguide
from hybridgen.sampling.parametrisation import parametrisation
from hybridgen.sampling.samplers import check_noise, check_samples


@dataclass(frozen=True, eq=False)
class PipelineSampler:
    """A pipeline that is called as its users call it, with its own scheduler and settings.

    Its samples are those of the last step, in the space in which its network works: neither
    decoded nor clipped. The noise that it is given seeds the pipeline, which draws its own.

    Attributes:
        pipeline: of diffusers, unguided, that takes a batch size or class labels.
        noise_shape: of one sample.
        steps: of its scheduler.
        push: guides it, if anything does.

    Raises:
        InputError: a pipeline that needs more, such as a prompt, or makes other samples.
    """

    pipeline: Any
    noise_shape: tuple[int, ...]
    steps: int
    push: Push | None = None

    def __post_init__(self) -> None:
        name = type(self.pipeline).__name__
        arguments = inspect.signature(self.pipeline.__call__).parameters
        if not {"batch_size", "class_labels"} & {*arguments} or "prompt" in arguments:
            raise InputError(
                f"{name} cannot be sampled by a batch size or class labels alone: draw samples of "
                "it yourself, train a discriminator on them (train_guide), and guide(pipe, it)"
            )
        config, shape = self.network.config, self.noise_shape
        size = config.get("sample_size")
        sides = (size, size) if isinstance(size, int) else tuple(size or shape[1:])
        if (config.get("in_channels"), *sides) != shape:
            raise InputError(
                f"{name} makes samples of shape {(config.get('in_channels'), *sides)} and the data "
                f"has shape {shape}: give data like that (data.resolution, data.channels)"
            )

        try:
            parametrisation(self.network, self.pipeline.scheduler)
        except ValueError as error:  # said before samples are drawn for hours
            raise InputError(f"{name} cannot get a guide: {error}") from error

    @property
    def network(self) -> Any:
        """The one network that is asked at every step."""
        return getattr(self.pipeline, network_name(self.pipeline))

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of that network: where it computes, and in which type."""
        return self.network.parameters()

    def to(self, device: Any) -> "PipelineSampler":
        """Itself, its pipeline moved there."""
        self.pipeline.to(device)
        return self

    @property
    def cost(self) -> Cost:
        """Steps: what a scheduler of higher order asks beyond them is not counted."""
        return Cost(denoiser=self.steps)

    def guided(self, push: Push) -> "PipelineSampler":
        """The same pipeline with a discriminator's push."""
        return replace(self, push=push)

    @torch.no_grad()
    def __call__(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """`noise [b *noise_shape]`, `label [b]` -> samples `[b *noise_shape]`.

        Raises:
            ValueError: noise of another shape.
            RunError: samples are not finite.
        """
        check_noise(noise, self.noise_shape)
        arguments = inspect.signature(self.pipeline.__call__).parameters
        sizes = {"batch_size": len(noise), "output_type": "np"}
        call: dict[str, Any] = {name: sizes[name] for name in sizes if name in arguments}
        if "class_labels" in arguments:
            call["class_labels"] = None if label is None else label.tolist()
        push, pipe = self.push, self.pipeline
        if push is not None:
            guide(pipe, push.discriminator, push.scale, push.window, clip=push.clip)
        try:
            with _last_step(pipe.scheduler) as samples:
                pipe(generator=rng_from(noise), num_inference_steps=self.steps, **call)
        finally:
            if push is not None:
                unguide(pipe)
        # Classifier-free guidance may have carried every sample twice.
        x = samples[0][: len(noise)].to(noise)
        check_samples([torch.isfinite(x).all()], [0.0])
        return x


@contextmanager
def _last_step(scheduler: Any) -> Iterator[list[Tensor]]:
    """What the latest step of `scheduler` led to, the only entry of the list."""
    step, latest = scheduler.step, []

    @functools.wraps(step)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        after = step(*args, **kwargs)
        latest[:] = [after[0]]
        return after

    scheduler.step = recorded
    try:
        yield latest
    finally:
        del scheduler.step
