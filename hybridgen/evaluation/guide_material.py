"""What a guide learns from and is examined on: a finished run and the samples of its model."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hybridgen.data.images import to_float
from hybridgen.data.source import Source
from hybridgen.errors import InputError
from hybridgen.evaluation.guidance_effect import GuidanceEffect
from hybridgen.evaluation.pictures import to_bytes
from hybridgen.losses.ratio import Critic
from hybridgen.training.exam import Exam
from hybridgen.training.files import write_atomically
from hybridgen.training.run import Run

_EXAMINED = 2_000


def data_of(run: Path) -> dict[str, Any]:
    """The data settings of a finished diffusion run.

    Raises:
        InputError: the folder holds none.
    """
    missing = [n for n in ("config.yaml", "denoiser", "result.json") if not (run / n).exists()]
    if missing:
        raise InputError(
            f"{run} is not a finished run of experiments/diffusion.py (it has no {missing[0]}): "
            "train one first, or name its folder with --run"
        )
    try:
        return dict(yaml.safe_load((run / "config.yaml").read_text())["data"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{run / 'config.yaml'} is damaged: train the model again") from error


def fingerprint(run: Path, network: str = "denoiser") -> str:
    """The SHA-256 of a run's weights: a guide belongs to one model."""
    digest = hashlib.sha256()
    for path in sorted((run / network).glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def drawn_once(
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


def _frequent(source: Source, count: int) -> Tensor | None:
    """Labels `[count]` of training examples; `None` without classes."""
    _, label = source.reference("train", count)
    if not source.classes or label is None:
        return None
    return label[torch.arange(count) % len(label)]


def exam_of(
    real: Source,
    fake: Tensor,
    fake_label: Tensor | None,
    *,
    levels: Tensor,
    denoiser: Critic | None,
    device: torch.device,
    seed: int,
) -> Exam:
    """The exam on what `real` holds out and on `fake`, at most 2 000 samples of either."""
    x, label = real.reference("held_out", _EXAMINED, seed)
    return Exam(
        x.to(device),
        fake[:_EXAMINED].to(device),
        levels,
        label=None if label is None or not real.classes else label.to(device),
        fake_label=None if fake_label is None else fake_label[:_EXAMINED].to(device),
        denoiser=denoiser,
        seed=seed,
    )
