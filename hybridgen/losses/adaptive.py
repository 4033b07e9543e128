"""Since when and how strongly auxiliary losses pull, read off the gradients themselves."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hybridgen.losses.reduction import process_mean, processes


def adaptive_weight(
    loss: Tensor,
    adversarial: Tensor,
    last_layer: Tensor | None = None,
    *,
    output: Tensor | None = None,
    limit: float = 1e4,
) -> Tensor:
    """`|d loss / d w| / (|d adversarial / d w| + 1e-4)` at a model's last layer, at most `limit`.

    Multiplied by it, the adversarial term pulls on the last layer as hard as the main loss does,
    whatever the scale of the discriminator's logits. An untrained discriminator has tiny
    gradients, hence a large weight: train the discriminator from the start and ramp the product up
    (`AdversarialWeight` does). Gradients are those of the whole batch, over all processes of
    `torch.distributed` if it is initialised, so every process must call this.
    Source: Esser et al. 2020, arXiv:2012.09841, equation 7.

    Args:
        loss: the main loss, a scalar.
        adversarial: `AdversarialLoss.generator_loss(...)`, a scalar.
        last_layer: the weight w of the layer both losses pass through last, such as
            `decoder.conv_out.weight`.
        output: in place of a last layer that is frozen or trained by an adapter, the model's
            output `[b ...]`, from which both losses were computed.
        limit: the largest weight.

    Returns:
        A scalar without gradient: 0 where a gradient is not finite, and where gradients are off
        (`torch.no_grad`, `torch.inference_mode`). The graphs are kept for the backward pass.

    Raises:
        ValueError: a limit that is negative or NaN, not one of `last_layer` and `output`, or a loss
            that is no scalar or does not depend on it.
    """
    _check_limit(limit)
    at = last_layer if output is None else output
    if at is None or (last_layer is not None and output is not None):
        raise ValueError("an adaptive weight is taken at last_layer or at output: give one of them")
    if not torch.is_grad_enabled():
        return torch.zeros((), device=loss.device)
    if output is None and not at.requires_grad:
        raise ValueError(
            "the last layer requires no gradient (it is frozen, or an adapter beside it trains): "
            "give the model's output instead, adaptive_weight(..., output=output)"
        )
    pull, push = (
        _norm(_gradient(name, part, at), shared=output is None)
        for name, part in (("loss", loss), ("adversarial", adversarial))
    )
    weight = (pull / (push + 1e-4)).clamp(max=limit)
    return torch.where(pull.isfinite() & push.isfinite(), weight, 0.0)


class AdversarialWeight(nn.Module):
    """The weight of an adversarial term: 0 until `start`, then a ramp, and adaptive on top of it.

    `weight * min(1, (steps + 1 - start) / ramp) * adaptive_weight(...)`, the product of VQGAN's
    loss; `step()` goes on to the next step, once for each update of the model. `state_dict` holds
    the number of steps and the last adaptive weight, for `accelerator.register_for_checkpointing`
    or as a part of a module that is saved.
    Source: Esser et al. 2020, arXiv:2012.09841, equation 7.

    Args:
        weight: once start and ramp are over.
        start: steps in which the term does not reach the model, while its discriminator trains.
        ramp: steps in which the weight then rises evenly to its full value.
        adaptive: multiply by `adaptive_weight`.
        limit: of the adaptive weight.

    Attributes:
        steps: done so far.
        scheduled: the weight at this step without the adaptive part. Where it is 0 the term need
            not be computed.

    Raises:
        ValueError: a number that is negative or NaN.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        start: int = 0,
        ramp: int = 0,
        adaptive: bool = True,
        limit: float = 1e4,
    ) -> None:
        super().__init__()
        _check_limit(limit)
        for name, number in (("weight", weight), ("start", start), ("ramp", ramp)):
            if not 0 <= number < math.inf:
                raise ValueError(f"{name} must be finite and >= 0, got {number}")
        self.weight, self.start, self.ramp = weight, start, ramp
        self.adaptive, self.limit = adaptive, limit
        self.steps, self._last = 0, torch.zeros(())

    @property
    def scheduled(self) -> float:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be finite and >= 0, got {self.weight}")
        risen = (self.steps + 1 - self.start) / max(self.ramp, 1)
        return self.weight * min(max(risen, 0.0), 1.0)

    def forward(
        self,
        loss: Tensor,
        adversarial: Tensor,
        last_layer: Tensor | None = None,
        *,
        output: Tensor | None = None,
    ) -> Tensor:
        """The weight at this step, a scalar without gradient; arguments as of `adaptive_weight`.

        Where gradients are off it is the last one that was worked out, so that a validation
        reports the loss that is trained.
        """
        weight = torch.full_like(loss.detach(), self.scheduled)
        if not self.adaptive:
            return weight
        if self.scheduled > 0 and torch.is_grad_enabled():
            at = {"output": output, "limit": self.limit}
            self._last = adaptive_weight(loss, adversarial, last_layer, **at)
        return weight * self._last.to(loss.device)

    def step(self) -> None:
        """Go on to the next step."""
        self.steps += 1

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.steps, float(self._last)], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        steps, last = state.tolist()
        self.steps, self._last = int(steps), torch.tensor(last)


class LossBalancer(nn.Module):
    """One loss of several, in which each pulls on the output by its share, whatever its scale.

    Its gradient at the output is `sum_i norm w_i / (sum_j w_j) g_i / <|g_i|>`, with the gradient
    `g_i` of loss i there and the running mean `<|g_i|>` of its norm a sample, over the samples of
    all processes of `torch.distributed`. The losses reach the model through the output alone; what
    does not depend on it (a commitment loss, a KL divergence) is added to the result.
    `state_dict` holds the running means, in the order of `weights`.
    Source: Defossez et al. 2022, arXiv:2210.13438, section 3.4.

    Args:
        weights: by name of the loss; only their ratios matter.
        norm: of all gradients together, where each is as large as its mean.
        decay: of the running means, a step.

    Raises:
        ValueError: weights that are negative, not finite or all 0, a decay outside [0, 1).
    """

    def __init__(
        self, weights: Mapping[str, float], *, norm: float = 1.0, decay: float = 0.999
    ) -> None:
        super().__init__()
        if not all(0 <= w < math.inf for w in weights.values()) or not any(weights.values()):
            raise ValueError(f"weights must be finite, >= 0 and not all 0, got {dict(weights)}")
        if not 0 < norm < math.inf or not 0 <= decay < 1:
            raise ValueError(f"need a finite norm > 0 and 0 <= decay < 1, got {norm=}, {decay=}")
        self.weights, self.norm, self.decay = dict(weights), norm, decay
        self.register_buffer("sums", torch.zeros(len(weights)))
        self.register_buffer("counts", torch.zeros(len(weights)))
        self.sums: Tensor
        self.counts: Tensor

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """A scalar whose gradient is balanced; its value is the losses' sum, each times what its
        gradient is multiplied by, and is no loss to follow: log the losses themselves.

        Where gradients are off the running means stay as they are, and a loss that has none yet
        counts by its share alone. A gradient that is not finite is left out of them, and shows in
        the result, unless its share is 0. The means move at each call.

        Args:
            losses: scalars by name, of those in `weights`; one that is missing has no share.
            output: `[b ...]`, the tensor from which they were computed.
        """
        if not losses or not set(losses) <= set(self.weights):
            unknown = sorted(set(losses) - set(self.weights))
            raise ValueError(
                f"expected one or more losses of {sorted(self.weights)}, got no weight for "
                f"{unknown}"
            )
        rows = [row for row, name in enumerate(self.weights) if name in losses]
        parts = {name: losses[name] for name in self.weights if name in losses}
        shares = torch.tensor([self.weights[name] for name in parts], device=output.device)
        shares = shares / shares.sum().clamp(min=1e-12)
        self.to(output.device)
        if not torch.is_grad_enabled():
            return (self._scales(shares, rows) * _stacked(parts)).sum()
        gradients = [_gradient(name, part, output) for name, part in parts.items()]
        norms = torch.stack(
            [gradient.reshape(len(gradient), -1).norm(dim=1).mean() for gradient in gradients]
        )
        norms = (process_mean(norms) / processes()).to(self.sums.dtype)
        finite = norms.isfinite()
        for buffer, values in ((self.sums, norms), (self.counts, torch.ones_like(norms))):
            buffer[rows] = torch.where(finite, self.decay * buffer[rows] + values, buffer[rows])
        scales = self._scales(shares, rows)
        # A share of 0 contributes nothing, and not 0 times infinity.
        counted = zip(scales, gradients, shares > 0, strict=True)
        pull = sum(torch.where(counts, scale * g, 0.0) for scale, g, counts in counted)
        surrogate = (torch.as_tensor(pull) * output.to(scales.dtype)).sum()
        value = torch.where(shares > 0, scales * _stacked(parts), 0.0).sum()
        return value + (surrogate - surrogate.detach())

    def _scales(self, shares: Tensor, rows: list[int]) -> Tensor:
        """What each loss is multiplied by."""
        mean = self.sums[rows] / self.counts[rows].clamp(min=1e-12)
        return torch.where(self.counts[rows] > 0, self.norm * shares / (mean + 1e-12), shares)


def _stacked(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([part.detach().float() for part in parts.values()])


def _check_limit(limit: float) -> None:
    if not limit >= 0:
        raise ValueError(f"the limit of an adaptive weight must be >= 0, got {limit}")


def _gradient(name: str, loss: Tensor, at: Tensor) -> Tensor:
    """`d loss / d at`, in float32 or better; the graph is kept."""
    if loss.numel() != 1:
        raise ValueError(f"{name} must be a scalar, got a tensor of shape {list(loss.shape)}")
    gradient = None
    if loss.requires_grad and at.requires_grad:
        (gradient,) = torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"{name} does not depend on the tensor at which its gradient is wanted: give the very "
            "weight or output that it was computed from, with gradients attached"
        )
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32))


def _norm(gradient: Tensor, *, shared: bool) -> Tensor:
    """The norm of the whole batch's gradient: of a weight that all processes share, or of the
    output, of which each holds a part."""
    if shared:
        return process_mean(gradient).norm()
    return (process_mean(gradient.square().sum()) / processes()).sqrt()
