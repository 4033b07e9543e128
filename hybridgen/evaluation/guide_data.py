"""What a guide learns from and is validated on: real examples and samples of one model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hybridgen.data.images import shuffled, to_bytes, to_float
from hybridgen.data.source import Batch, Source
from hybridgen.errors import InputError
from hybridgen.evaluation.guide import SampledModel
from hybridgen.protocols import Denoiser
from hybridgen.training.checkpoint import write_atomically
from hybridgen.training.run import Run
from hybridgen.training.validation import HeldOutValidation

_VALIDATED = 2_000
"""Samples of either kind that a guide is validated on, at most."""
_DRAWS = "fakes"
"""Names the noise; another name is other noise, and recorded figures would not be met again."""


def cached_samples(
    model: SampledModel, count: int, path: Path, run: Run
) -> tuple[Tensor, Tensor | None]:
    """Samples of the unguided model `[count ...]` and their labels, kept in a file.

    Images are in 256 values, as the data is: a guide would know finer ones for generated. Labels
    are as frequent as in the data, or their numbers alone would give samples away. The file also
    keeps the model's fingerprint.

    Raises:
        RunError: samples are not finite.
        InputError: the file is damaged, or of another model.
    """
    label = _frequent_labels(model.source, count)
    points = len(model.source.shape) == 1
    if run.leads and not path.exists():
        run.say(f"drawing {count} samples of the model")
        x = model.samples(count, _DRAWS, label=label)
        content = {"x": x if points else to_bytes(x)}
        write_atomically(path, save(content, {"model": model.fingerprint}))
    run.accelerator.wait_for_everyone()
    try:
        with safe_open(path, "pt") as file:
            x, fingerprint = file.get_tensor("x"), (file.metadata() or {}).get("model")
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{path} is damaged: remove it, it will be drawn again") from error
    if fingerprint != model.fingerprint:
        raise InputError(f"{path} holds samples of another model: choose another --out")
    return x if points else to_float(x), label


def refuse_another_model(folder: Path, model: str) -> None:
    """Refuse a finished guide whose model has been trained again since, by its fingerprint.

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
    """What a discriminator learns from, and apart from it what it is validated on.

    Args:
        real: training examples, and as `held_out` those for validation.
        count: samples of the model.
        part: the share of them that is for validation.
        batch: real samples a step, and as many generated ones, over all processes.
        seed: of every order.
        rank, world: which of how many processes this is.
        device: where it computes.

    Raises:
        InputError: a batch larger than the data, or not divisible by the processes.
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
        self._held_out = max(4, round(part * count))
        self._shard: dict[str, Any] = dict(batch=batch, rank=rank, world=world, device=device)
        self._fake: tuple[Tensor, Tensor | None] = torch.empty(count), None
        # A batch that cannot be dealt is refused before samples are drawn for minutes.
        self.real_batches(0)
        self.fake_batches(0)

    def draw(self, model: SampledModel, path: Path, run: Run) -> None:
        """Draw the samples of the model, or read them back; see `cached_samples`."""
        self._fake = cached_samples(model, self.count, path, run)

    def real_batches(self, start: int) -> Iterator[Batch]:
        """Batches of training examples from number `start` on."""
        return self.real.batches(seed=self.seed, start=start, **self._shard)

    def fake_batches(self, start: int) -> Iterator[Batch]:
        """The same of the samples that are not for validation."""
        x, label = self._fake
        label = None if label is None else label[self._held_out :]
        return shuffled(x[self._held_out :], label, seed=self.seed + 1, start=start, **self._shard)

    def validation(self, levels: Tensor, denoiser: Denoiser | None) -> HeldOutValidation:
        """The validation on at most 2 000 samples of either kind.

        Args:
            levels: of noise, `[l]`.
            denoiser: of the model, for score matching.
        """
        device = self._shard["device"]
        x, label = self.real.reference("held_out", _VALIDATED, self.seed)
        fake, fake_label = self._fake
        first = min(self._held_out, _VALIDATED)
        return HeldOutValidation(
            x.to(device),
            fake[:first].to(device),
            levels,
            label=None if label is None or not self.real.classes else label.to(device),
            fake_label=None if fake_label is None else fake_label[:first].to(device),
            denoiser=denoiser,
            seed=self.seed,
        )


def _frequent_labels(source: Source, count: int) -> Tensor | None:
    """Labels `[count]` of training examples; `None` without classes."""
    _, label = source.reference("train", count)
    if not source.classes or label is None:
        return None
    return label[torch.arange(count) % len(label)]
