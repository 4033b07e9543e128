"""A pipeline of diffusers as a sampler: what its scheduler arrives at."""

import copy
import functools
import inspect
import math
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
from hybridgen.sampling.guide import guide, label_ids, network_name, unguide
from hybridgen.sampling.parametrisation import Parametrisation, parametrisation
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
        classes: of the data, whose labels it is given; 0 for none.
        push: guides it, if anything does.
        trained_with, pure_noise: what its own scheduler does not tell, see `guide`.

    Raises:
        InputError: a pipeline that needs more, such as a prompt, or makes other samples.
    """

    pipeline: Any
    noise_shape: tuple[int, ...]
    steps: int
    classes: int = 0
    push: Push | None = None
    trained_with: Any = None
    pure_noise: float | None = None

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
        ids = label_ids(self.network) if "class_labels" in arguments else 0
        needed = ids and arguments["class_labels"].default is inspect.Parameter.empty
        fitting = {ids, max(ids - 1, 0)} if needed else {0, ids, max(ids - 1, 0)}
        if self.classes not in fitting:
            raise InputError(
                f"{name} makes samples of {ids} classes and the data has {self.classes}: give data "
                "of the same classes and set data.labels " + ("true" if ids else "false")
            )
        try:
            _ = self._trained
        except ValueError as error:  # said before samples are drawn for hours
            raise InputError(f"{name} cannot get a guide: {error}") from error

    @property
    def network(self) -> Any:
        """The one network that is asked at every step."""
        return getattr(self.pipeline, network_name(self.pipeline))

    @property
    def _trained(self) -> Parametrisation:
        scheduler = self.trained_with or self.pipeline.scheduler
        return parametrisation(self.network, scheduler, self.pure_noise)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of that network: where it computes, and in which type."""
        return self.network.parameters()

    def to(self, device: Any) -> "PipelineSampler":
        """Itself, its pipeline moved there."""
        self.pipeline.to(device)
        return self

    @property
    def cost(self) -> Cost:
        """Calls at the timesteps that its scheduler lays out; `nan` of its network, where
        classifier-free guidance may ask it twice.
        """
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        scheduler.set_timesteps(self.steps)
        times = torch.as_tensor(scheduler.timesteps).cpu().double()
        twice = "guidance_scale" in inspect.signature(self.pipeline.__call__).parameters
        cost = Cost(denoiser=math.nan if twice else len(times))
        if self.push is None:
            return cost
        alpha, s = self._trained.level(times)
        guided = int((self.push.strength(s / alpha) != 0).sum())
        return cost + Cost(discriminator_forward=guided, discriminator_backward=guided)

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
            how = {"trained_with": self.trained_with, "pure_noise": self.pure_noise}
            guide(pipe, push.discriminator, push.scale, push.window, clip=push.clip, **how)
        try:
            with _last_step(pipe.scheduler) as samples:
                # Some pipelines draw on the CPU wherever they are; from there all of them take it.
                pipe(generator=rng_from(noise.cpu()), num_inference_steps=self.steps, **call)
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
