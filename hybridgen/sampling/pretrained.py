"""Networks trained with diffusers as denoisers: same weights, inputs and outputs converted."""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.maths.noise import clamp_level, like, scalings
from hybridgen.networks.conditioning import check_input, label_or_null
from hybridgen.sampling.conversions import (
    CONSISTENCY,
    ends_in_noise,
    in_flow_scale,
    prediction_type,
    scheduler_name,
)
from hybridgen.sampling.guidance import configured

_LEAST = 2.0**-24
_PURE = 1e7
"""The noise level that stands for pure noise: nothing of data is left in float32."""
_variances: ContextVar[list[Tensor] | None] = ContextVar("variances", default=None)


@contextmanager
def learned_variances() -> Iterator[list[Tensor]]:
    """A list that fills with what networks asked in this context say of the variance.

    Each is the second half of one answer, `[b c ...]`, in the order of the calls. A denoiser has no
    place for it, and the denoisers around it, guided or not, do not know of it.
    """
    answers: list[Tensor] = []
    token = _variances.set(answers)
    try:
        yield answers
    finally:
        _variances.reset(token)


class DiffusersDenoiser(nn.Module):
    """`(x [b ...], sigma [b], label [b] or None) -> x0 [b ...]` around a network of diffusers.

    The scheduler that the network was trained with says what its input is scaled by, which number
    it takes for the noise level, and what it predicts; the scheduler may differ from the one that
    samples. In between two entries of a table of noise levels the timestep is interpolated in
    `log sigma`; at an entry it is that entry. Levels above the table are treated as its last,
    `D(last x / sigma, last)`, unless that is pure noise; those below it as timestep 0.

    A network that also predicts a variance (twice the channels) is used for its mean half; see
    `learned_variances` for the other. The network runs in its own precision, everything around it
    in that of `x`.

    Args:
        network: `UNet2DModel`, `DiTTransformer2DModel`, or any module `(x, t [b]) -> prediction`
            or an object with `.sample`; called with `class_labels=` where labels are known.
        scheduler: the one it was trained with, of a kind that `Scheduled` knows.
        shape: of one sample; taken from the network's configuration if that says it.
        null: the id that means "no class" for this network; a DiT says it itself. Without one,
            a network with classes needs labels.

    Raises:
        ValueError: a scheduler or a prediction type that is not known.
        InputError: a network that needs more than noise and labels (text, an image), a null id
            that it does not have.
    """

    def __init__(
        self,
        network: nn.Module,
        scheduler: Any,
        *,
        shape: tuple[int, ...] | None = None,
        null: int | None = None,
    ) -> None:
        super().__init__()
        _refuse_conditions(network)
        self.network, self.scheduler = network, scheduler
        self.shape = shape if shape is not None else _shape(network)
        self.classes, self.null = _labels(network, null)
        self._prediction_type = prediction_type(scheduler)
        self._flow = in_flow_scale(scheduler)
        # Consistency models are shown a thousand times what EDM's networks are shown.
        self._turns = 1e3 if scheduler_name(scheduler) == CONSISTENCY else 1.0
        self._timesteps = int(scheduler.config["num_train_timesteps"])
        if scheduler.config.get("timestep_type") == "continuous":
            raise InputError(
                f"this {scheduler_name(scheduler)} has timestep_type='continuous', which is not "
                "known here: give the scheduler that the network was trained with"
            )
        kept = getattr(scheduler, "alphas_cumprod", torch.ones(0)).double()
        self._pure = self._flow or ends_in_noise(scheduler)
        if self._pure:
            # The level from which diffusers' solvers show a network the last entry: 4096.
            kept = kept.clamp_min(_LEAST)
        # No buffer: `.to(bfloat16)` would round it.
        self._log_sigmas = (((1 - kept) / kept).log() / 2).cpu()
        self._table = self._log_sigmas  # where samples are

    @property
    def levels(self) -> tuple[float, float]:
        """The lowest and the highest noise level that the network was trained at; 1e7 is as good
        as pure noise.
        """
        if self._prediction_type.edm is not None:
            return self.scheduler.config["sigma_min"], self.scheduler.config["sigma_max"]
        if self._flow:
            return 1e-3, _PURE
        low, high = (math.exp(float(end)) for end in self._log_sigmas[[0, -1]])
        return low, _PURE if self._pure else high

    @property
    def learned_variance(self) -> bool:
        """Whether the network says that it also predicts a variance."""
        outer, inner = (configured(self.network, f"{end}_channels") for end in ("out", "in"))
        return outer is not None and inner is not None and outer == 2 * inner

    def save_pretrained(self, folder: str | Path) -> None:
        """Write network and scheduler as a pipeline that `load_denoiser` and diffusers read."""
        from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline

        DDPMPipeline(cast(Any, self.network), self.scheduler).save_pretrained(folder)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        if self.shape is not None:
            check_input(x, self.shape, "x")
        if label is None and self.classes and self.null is None:
            raise ValueError(
                f"this network has {self.classes} classes and no id for 'none': pass labels [b], "
                "or build its denoiser with null=..."
            )
        label = label_or_null(label, x, self.classes, self.null)
        if self._prediction_type.edm is not None:
            c = scalings(clamp_level(sigma), self._prediction_type.edm[0])
            prediction = self._predict(like(c.inner, x) * x, self._turns * c.noise, label)
            one = torch.ones_like(sigma)
            return self._prediction_type.to_clean(prediction, x, one, clamp_level(sigma))
        if self._flow:
            alpha, timestep = 1 / (1 + sigma), self._timesteps * sigma / (1 + sigma)
        else:
            if not self._pure:
                # Beyond the table even the last entry sees hardly more than noise.
                clamped = sigma.clamp_max(math.exp(float(self._log_sigmas[-1])))
                x, sigma = like((clamped / sigma).nan_to_num(nan=1.0), x) * x, clamped
            alpha, timestep = torch.rsqrt(1 + sigma.square()), self._timestep(sigma)
        scaled = like(alpha, x) * x
        prediction = self._predict(scaled, timestep, label)
        return self._prediction_type.to_clean(prediction, scaled, alpha, alpha * sigma)

    def _timestep(self, sigma: Tensor) -> Tensor:
        """The table's position of `sigma [b]`; float64 on the CPU, not every accelerator has it."""
        precise = torch.float64 if sigma.device.type == "cpu" else torch.float32
        table, ends = self._table, (float(self._log_sigmas[0]), float(self._log_sigmas[-1]))
        if table.device != sigma.device:
            table = self._table = self._log_sigmas.to(sigma.device, precise)
        log_sigma = sigma.to(precise).log().clamp(*ends)
        above = torch.searchsorted(table, log_sigma).clamp(1, len(table) - 1)
        below = above - 1
        position = below + (log_sigma - table[below]) / (table[above] - table[below])
        # Rounding to float32 moves a level by up to about 1e-4 entries.
        entry = position.round()
        position = torch.where((position - entry).abs() < 1e-3, entry, position)
        # Several entries of a table that ends in pure noise count as its last.
        return torch.where(log_sigma >= ends[1], len(table) - 1.0, position)

    def _predict(self, scaled: Tensor, timestep: Tensor, label: Tensor | None) -> Tensor:
        dtype = next((p.dtype for p in self.network.parameters()), scaled.dtype)
        if configured(self.network, "time_embedding_type") == "learned":
            timestep = timestep.round().long()
        elif dtype != torch.float64:
            timestep = timestep.float()
        more = {} if label is None else {"class_labels": label}
        prediction = self.network(scaled.to(dtype), timestep, **more)
        prediction = getattr(prediction, "sample", prediction).to(scaled.dtype)
        channels = scaled.shape[1]
        if prediction.shape[1] == 2 * channels:
            prediction, variance = prediction.chunk(2, dim=1)
            if (answers := _variances.get()) is not None:
                answers.append(variance)
        if prediction.shape != scaled.shape:
            raise ValueError(
                f"the network answered {list(prediction.shape)} to samples {list(scaled.shape)}: "
                "expected the same shape, or twice the channels"
            )
        return prediction


def _shape(network: nn.Module) -> tuple[int, ...] | None:
    channels, size = configured(network, "in_channels"), configured(network, "sample_size")
    if channels is None or size is None:
        return None
    return (channels, size, size) if isinstance(size, int) else (channels, *size)


def _labels(network: nn.Module, null: int | None) -> tuple[int, int | None]:
    """How many classes a network knows, and its id for none of them."""
    ids = configured(network, "num_class_embeds") or 0
    if configured(network, "num_embeds_ada_norm"):
        # A DiT counts its classes without the extra id, which is there if labels were dropped.
        classes = int(configured(network, "num_embeds_ada_norm"))
        tables = (m.num_embeddings for m in network.modules() if isinstance(m, nn.Embedding))
        ids = max(tables, default=classes)
        null = classes if null is None and ids > classes else null
    if null is None:
        return ids, None
    if not 0 <= null < ids:
        raise InputError(f"null={null} is not among the {ids} label ids of this network")
    return (ids - 1 if null == ids - 1 else ids), null


def _refuse_conditions(network: nn.Module) -> None:
    parameters = list(inspect.signature(network.forward).parameters.values())
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in free]
    if len(needed) > 2 or "encoder_hidden_states" in needed:
        raise InputError(
            f"{type(network).__name__} needs {', '.join(needed[2:])} beside noise and its level, "
            "but only unconditional and class-conditional networks can be denoisers here"
        )
