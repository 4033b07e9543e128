"""What a guide learns from and is examined on: a finished run and the samples of its model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hybridgen.data.images import shuffled, to_float
from hybridgen.data.source import Batch, Source
from hybridgen.errors import InputError
from hybridgen.evaluation.guide import GuidanceEffect
from hybridgen.evaluation.plots import to_bytes
from hybridgen.protocols import Denoiser
from hybridgen.training.checkpoint import write_atomically
from hybridgen.training.run import Run
from hybridgen.training.validation import HeldOutValidation

_EXAMINED = 2_000


def cached_samples(
    effect: GuidanceEffect, count: int, path: Path, run: Run, model: str
) -> tuple[Tensor, Tensor | None]:
    """Samples of the unguided model `[count ...]` and their labels, kept in a file.

    Images are in 256 values, as the data is: a guide would know finer ones for generated. Labels
    are as frequent as in the data, or their numbers alone would give samples away.

    Args:
        model: the fingerprint of the model, kept in the file.

    Raises:
        RunError: samples are not finite.
        InputError: the file is damaged, or of another model.
    """
    label = _frequent(effect.source, count)
    points = len(effect.source.shape) == 1
    if run.leads and not path.exists():
        run.say(f"drawing {count} samples of the model")
        x = effect.samples(None, 0.0, count, "fakes", label=label)
        write_atomically(path, save({"x": x if points else to_bytes(x)}, {"model": model}))
    run.accelerator.wait_for_everyone()
    try:
        with safe_open(path, "pt") as file:
            x, of = file.get_tensor("x"), (file.metadata() or {}).get("model")
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{path} is damaged: remove it, it will be drawn again") from error
    if of != model:
        raise InputError(f"{path} holds samples of another model: choose another --out")
    return x if points else to_float(x), label


def refuse_another_model(folder: Path, model: str) -> None:
    """Refuse a finished guide whose model has been trained again since.

    Raises:
        InputError: see above.
    """
    guide = json.loads((folder / "guide.json").read_text())
    if guide["model"] != model:
        raise InputError(
            f"{folder} holds a guide for an earlier model than the run has now: choose another "
            "--out to train a guide for this one"
        )


class GuideData:
    """What a discriminator learns from, and apart from it what it is examined on.

    Args:
        real: training examples, and as `held_out` those set apart.
        count: samples of the model.
        part: the share of them that is set apart.
        batch: real samples a step, and as many generated ones, over all processes.
        seed: of every order.
        rank, world: which of how many processes this is.
        device: where it computes.

    Raises:
        InputError: a batch larger than what is there, or not divisible by the processes.
    """

    def __init__(
        self,
        real: Source,
        *,
        count: int,
        part: float,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.real, self.count, self.seed = real, count, seed
        self._held = max(4, round(part * count))
        self._ours: dict[str, Any] = {
            "batch": batch,
            "rank": rank,
            "world": world,
            "device": device,
        }
        self._fake: tuple[Tensor, Tensor | None] = torch.empty(count), None
        # Whatever is wrong is said now, before anything is drawn.
        self.real_batches(0)
        self.fake_batches(0)

    def draw(self, effect: GuidanceEffect, path: Path, run: Run, model: str) -> None:
        """Draw the samples of the model, or read them back; see `cached_samples`."""
        self._fake = cached_samples(effect, self.count, path, run, model)

    def real_batches(self, start: int) -> Iterator[Batch]:
        """Batches of training examples from number `start` on."""
        return self.real.batches(seed=self.seed, start=start, **self._ours)

    def fake_batches(self, start: int) -> Iterator[Batch]:
        """The same of the samples that are not set apart."""
        x, label = self._fake
        label = None if label is None else label[self._held :]
        return shuffled(x[self._held :], label, seed=self.seed + 1, start=start, **self._ours)

    def validation(self, levels: Tensor, denoiser: Denoiser | None) -> HeldOutValidation:
        """The exam on what is set apart, at most 2 000 samples of either kind.

        Args:
            levels: of noise, `[l]`.
            denoiser: of the model, for score matching.
        """
        device = self._ours["device"]
        x, label = self.real.reference("held_out", _EXAMINED, self.seed)
        fake, fake_label = self._fake
        first = min(self._held, _EXAMINED)
        return HeldOutValidation(
            x.to(device),
            fake[:first].to(device),
            levels,
            label=None if label is None or not self.real.classes else label.to(device),
            fake_label=None if fake_label is None else fake_label[:first].to(device),
            denoiser=denoiser,
            seed=self.seed,
        )


def _frequent(source: Source, count: int) -> Tensor | None:
    """Labels `[count]` of training examples; `None` without classes."""
    _, label = source.reference("train", count)
    if not source.classes or label is None:
        return None
    return label[torch.arange(count) % len(label)]
