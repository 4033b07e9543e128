"""Samples of one finished model, drawn once: what a guide or a student learns from."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hybridgen.data.images import to_bytes, to_float
from hybridgen.data.latents import pipeline_latents
from hybridgen.data.load import load_data
from hybridgen.data.settings import DataSettings
from hybridgen.data.source import Batch, Shard, Source, labels_in_turn, row_batches
from hybridgen.errors import InputError, reason
from hybridgen.evaluation.guide import SampledModel
from hybridgen.evaluation.teacher import NO_DATA
from hybridgen.files import write_atomically
from hybridgen.maths.rng import rng_for
from hybridgen.networks.blocks import in_chunks
from hybridgen.protocols import Denoiser
from hybridgen.sampling.samplers import AT_ONCE
from hybridgen.sampling.settings import StudentSettings
from hybridgen.training.distill_loss import Pairs
from hybridgen.training.run import Run
from hybridgen.training.validation import HeldOutValidation

_VALIDATED = 2_000
"""Samples of either kind that a guide is validated on, at most."""


def pipeline_and_data(name: str, data: DataSettings) -> tuple[Any, Source]:
    """A pipeline of diffusers by its folder or hub name, in eval mode, and data as its network sees
    it: of a pipeline with an autoencoder the latents.

    Raises:
        InputError: no such pipeline, no data for it, or data that cannot be encoded.
    """
    if not data.path:
        raise InputError(NO_DATA.format(name=name))
    source = load_data(data)
    try:
        pipeline: Any = DiffusionPipeline.from_pretrained(name, use_safetensors=True)
    except Exception as error:  # a damaged file fails in as many ways as there are formats
        raise InputError(
            f"no pipeline can be read from {name!r} ({reason(error)}): name a finished run, or "
            "what a pipeline's save_pretrained wrote, by its folder or hub name"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    autoencoder = getattr(pipeline, "vae", None) or getattr(pipeline, "vqvae", None)
    return pipeline, source if autoencoder is None else pipeline_latents(autoencoder, source)


class GuideData:
    """What is learnt from, and apart from it what a guide is validated on.

    Args:
        real: training examples, and as `held_out` those for validation.
        count: samples of the model.
        part: the share of them that is for validation; 0 for none.
        shard: real samples of a step, and as many generated ones; where they go, and the seed of
            every order.

    Raises:
        InputError: a batch larger than the data.
    """

    def __init__(self, real: Source, *, count: int, part: float, shard: Shard) -> None:
        self.real, self.count, self.shard = real, count, shard
        self._held_out = max(4, round(part * count)) if part else 0
        self._fake: tuple[Tensor, Tensor | None] = torch.empty(count), None
        # A batch that cannot be dealt is refused before samples are drawn for minutes.
        self.real_batches(0)
        self.fake_batches(0)

    def draw(self, model: SampledModel, path: Path, run: Run) -> None:
        """Draw the samples of the unguided model into a file, or read them back from it.

        Images are in 256 values, as the data is: a guide would know finer ones for generated.
        Labels are as frequent as in the data, or their numbers alone would give samples away. The
        file also keeps the model's fingerprint.

        Raises:
            RunError: samples are not finite.
            InputError: the file is damaged, or of another model.
        """
        _, label = model.source.reference("train", self.count)
        if label is not None:
            label = label[torch.arange(self.count) % len(label)] if model.source.classes else None
        # Points and latents, which are no images, stay as they are.
        images = len(model.source.shape) > 1 and getattr(model.source, "decode", None) is None
        # By another purpose it would be other noise, and recorded figures not met again.
        form = (to_bytes, to_float) if images else None

        def draw() -> Tensor:
            run.say(f"drawing {self.count} samples of the model")
            return model.samples(self.count, "fakes", label=label)

        shape = (self.count, *model.source.shape)
        self._fake = drawn_once(draw, shape, model.fingerprint, path, run, form), label

    def real_batches(self, start: int) -> Iterator[Batch]:
        """Batches of training examples from number `start` on."""
        return self.real.batches(replace(self.shard, start=start))

    def fake_batches(self, start: int) -> Iterator[Batch]:
        """The same of the samples that are not for validation."""
        x, label = self._fake
        label = None if label is None else label[self._held_out :]
        shard = replace(self.shard, seed=self.shard.seed + 1, start=start)
        return row_batches(x[self._held_out :], label, shard)

    def validation(self, levels: Tensor, denoiser: Denoiser | None) -> HeldOutValidation:
        """The validation on at most 2 000 samples of either kind, at noise levels `[l]`.

        The model's `denoiser` is given for score matching.
        """
        device, seed = self.shard.device, self.shard.seed
        x, label = self.real.reference("held_out", _VALIDATED, seed)
        fake, fake_label = self._fake
        first = min(self._held_out, _VALIDATED)
        fake_label = None if fake_label is None else fake_label[:first].to(device)
        label = None if label is None or not self.real.classes else label.to(device)
        labels = {"label": label, "fake_label": fake_label}
        sets = x.to(device), fake[:first].to(device)
        return HeldOutValidation(*sets, levels, **labels, denoiser=denoiser, seed=seed)


def drawn_once(
    draw: Callable[[], Tensor],
    shape: tuple[int, ...],
    fingerprint: str,
    path: Path,
    run: Run,
    form: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None = None,
) -> Tensor:
    """Samples of a model, drawn into a file or read back from it.

    Args:
        shape: of the samples.
        fingerprint: of the model's weights.
        form: what makes of samples what the file holds, and back.

    Raises:
        RunError: samples are not finite.
        InputError: the file is damaged, or of another model.
    """

    def write() -> None:
        if not path.exists():
            x = draw()
            content = {"x": x if form is None else form[0](x)}
            write_atomically(path, save(content, {"model": fingerprint}))

    run.lead(write)
    try:
        with safe_open(path, "pt") as file:
            x, noted = file.get_tensor("x"), (file.metadata() or {}).get("model")
        if x.shape != shape:
            raise ValueError(f"it holds a tensor {list(x.shape)} and not {list(shape)}")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({reason(error)}): remove it, it will be drawn again"
        ) from error
    if noted != fingerprint:
        raise InputError(f"{path} holds samples of another model: choose another --out")
    return x if form is None else form[1](x)


def draw_pairs(
    model: SampledModel, count: int, student: StudentSettings, path: Path, run: Run
) -> Pairs:
    """Pairs for each level of a student, see `drawn_once`: its own path down the levels, with the
    model's sampler from there to the end in the place of its estimates.

    Beyond the first level the sampler must be one that begins where its settings say.
    """
    levels, (settings, source) = student.levels, (model.settings, model.source)
    label, like = labels_in_turn(source.classes, count), next(model.network.parameters())
    # An estimate counts as noise of the lowest level, which is not added again.
    added = [levels[0], *(math.sqrt(level**2 - student.low**2) for level in levels[1:])]
    shape = count, *source.shape
    noise = [
        added[i] * torch.randn(shape, generator=rng_for(model.seed, "pairs", i))
        for i in range(len(levels))
    ]

    def draw() -> Tensor:
        samples = [torch.zeros(shape)]
        for level, each in zip(levels, noise, strict=True):
            run.say(f"drawing {count} pairs from noise level {level:.3g} down")
            begun = settings.beginning_at(level) if settings and settings.settable else settings
            sampler: Any = replace(model, settings=begun).sampler
            parts = (each / level).to(like), samples[-1].to(like)
            parts = (*parts, None if label is None else label.to(like.device))
            samples.append(
                in_chunks(
                    lambda noise, image, label, sampler=sampler: sampler(noise, label, image=image),
                    *parts,
                    size=AT_ONCE,
                ).cpu()
            )
        return torch.stack(samples[1:])

    sample = drawn_once(draw, (len(levels), *shape), model.fingerprint, path, run)
    before = [torch.zeros(shape), *sample[:-1]]
    return Pairs(torch.stack([x + each for x, each in zip(before, noise, strict=True)]), sample)
