"""How weights move: schedules, gradients of micro-batches, checked updates, the average."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hybridgen.errors import RunError
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.rng import normal_share
from hybridgen.training.settings import OptimSettings
from hybridgen.training.step import Losses, Step

CHECK_EVERY = 100
"""Steps after which an accelerator is waited for at the latest, to see whether losses are finite.
"""


class EMA:
    """An average of a model's weights and buffers in which the past fades with images seen.

    After `half_life` images the weights of then count half. Early in training the half-life is at
    most `ramp` times the images seen so far, so the random start is forgotten quickly.
    Source: Karras et al. 2022, arXiv:2206.00364, appendix F (half-life and ramp-up in images).

    The mean of singular vectors is none of the mean weight: those of spectral norms are brought
    back to it by a power iteration after every update, as by a forward pass in training.

    `torch.optim.swa_utils.AveragedModel` computes the same, but walks through both models at every
    update, which a small network notices.

    Args:
        model: the unwrapped model, on its device for good by the first update; it is copied.
        half_life: in images (or points), positive.
        ramp: the fraction of the images seen that bounds the half-life, positive.

    Attributes:
        module: the averaged model, in eval mode and without gradients.
    """

    def __init__(self, model: nn.Module, half_life: float, ramp: float = 0.05) -> None:
        if half_life <= 0 or ramp <= 0:
            raise ValueError(f"half_life and ramp must be positive, got {half_life}, {ramp}")
        self.half_life, self.ramp = half_life, ramp
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self._model = model
        self._pairs: list[tuple[Tensor, Tensor]] | None = None
        self._power_iterations = power_iterations(self.module)

    def update(self, *, seen: int, images: int) -> None:
        """Blend the model in after a step on `images` images, `seen` in all.

        The first update copies it, and counters (a batch normalisation's) are always copied.
        """
        half_life = min(self.half_life, self.ramp * seen)
        keep = 0.5 ** (images / half_life) if seen > images else 0.0
        if self._pairs is None:
            # Not before the first update: on CPUs of several processes `accelerator.prepare` moves
            # the weights. From then on optimisers and loading write in place.
            tensors = self.module.state_dict().values(), self._model.state_dict().values()
            self._pairs = list(zip(*tensors, strict=True))
        weights = [pair for pair in self._pairs if pair[0].is_floating_point()]
        averaged, current = map(list, zip(*weights, strict=True))
        get_ema_multi_avg_fn(keep)(averaged, current, 0)
        for average, counter in self._pairs:
            if not average.is_floating_point():
                average.copy_(counter)
        for iterate in self._power_iterations:
            iterate()


def power_iterations(model: nn.Module) -> list[Callable[[], Any]]:
    """A power iteration for each layer of a model under `parametrizations.spectral_norm` of
    `torch.nn.utils`, or under its older `spectral_norm`."""

    def iterate(weight: ParametrizationList) -> None:
        weight.train()()
        weight.eval()

    steps: list[Callable[[], Any]] = []
    for module in model.modules():
        if isinstance(module, ParametrizationList) and any(
            isinstance(part, _SpectralNorm) for part in module
        ):
            steps.append(partial(iterate, module))
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                steps.append(partial(hook.compute_weight, module, do_power_iteration=True))
    return steps


def schedule(optimizer: torch.optim.Optimizer, rate: float, betas: tuple[float, float]) -> None:
    """Set the learning rate and Adam's betas, or SGD's momentum, for the next step."""
    for group in optimizer.param_groups:
        momentum = {"betas": betas} if "betas" in group else {"momentum": float(betas[0])}
        group.update(lr=rate, **momentum)


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, lr=0.0, momentum=0.0),
}


class TrainingSetup:
    """Models prepared for training, their optimizers, the average, and the state of it all.

    Args:
        config: of micro-batches, average and checks.
        models: by name, what an optimizer of its own updates: a network, or a loss that holds the
            network under that name. The first one's network is averaged.
        kinds: of their optimizers, by name, `adam` or `sgd`; Adam if not given.

    Attributes:
        models: by name, prepared.
        optimizers: by name; the loop schedules rates and betas at every step.
        average: of the first network.
        state: what a checkpoint holds, by name: networks, average, optimizers.
        device, rank: where this process computes, and which of all processes it is.
        normal: draws this process's share of noise for the whole batch, see `normal_share`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: OptimSettings,
        kinds: Mapping[str, str] | None = None,
        /,
        **models: nn.Module,
    ) -> None:
        self.accelerator, self.config = accelerator, config
        self.device, self.rank = accelerator.device, accelerator.process_index
        processes = accelerator.num_processes
        self.normal = partial(normal_share, rank=self.rank, processes=processes)
        for model in models.values():
            if isinstance(model, AdversarialLoss):
                model.check_finite = False  # `update` does it, and names the step
        networks = {name: getattr(model, name, model) for name, model in models.items()}
        for network in networks.values() if config.channels_last else ():
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        averaged = next(iter(networks.values())).to(accelerator.device)
        # Copied on its device and before `prepare`, which would make the copy compute in bf16 too.
        self.average = EMA(averaged, config.ema_half_life, config.ema_ramp)
        for name, model in models.items() if config.compile else ():
            # Not a discriminator, which may be differentiated twice, and not the average, above.
            if name != "discriminator":
                model.compile()
        self.models: dict[str, nn.Module] = {
            name: accelerator.prepare(model) for name, model in models.items()
        }
        # Not prepared: Accelerate's wrapper serves what `validate_setup` refuses (fp16, its own
        # accumulation) and searches sys.path twice in every step.
        self.optimizers = {
            name: _OPTIMIZERS[(kinds or {}).get(name, "adam")](model.parameters(), fused=True)
            for name, model in self.models.items()
        }
        self.state: dict[str, Any] = {**networks, "average": self.average.module}
        self.state |= {f"{name}_optimizer": each for name, each in self.optimizers.items()}
        # On an accelerator losses are not read at every step: one that is not finite makes the
        # optimizers themselves leave all weights as they are, until it is read and said.
        self._pending: list[tuple[Sequence[str], list[str], int, Tensor]] = []
        self._failed: Tensor | None = None
        if self.device.type != "cpu":
            self._failed = torch.zeros((), device=self.device)
            for optimizer in self.optimizers.values():
                optimizer.found_inf = self._failed  # type: ignore[attr-defined]

    def share(self, x: Tensor) -> Tensor:
        """This process's share of what was drawn for the whole batch `[b ...]`."""
        return x.chunk(self.accelerator.num_processes)[self.rank]

    def micro_batches(
        self, names: Sequence[str], *tensors: Tensor | None
    ) -> Iterator[tuple[Any, ...]]:
        """Tensors `[b ...]` in equal micro-batches; `None` stays `None` in each.

        The gradients of the models `names` begin at zero, and processes exchange them in the last
        micro-batch alone, so the backward pass belongs into the body of the loop over these.
        """
        for name in names:
            self.optimizers[name].zero_grad()
        parts = self.config.accumulation
        columns = [[None] * parts if t is None else t.chunk(parts) for t in tensors]
        for number, micro_batch in enumerate(zip(*columns, strict=True), start=1):
            with ExitStack() as stack:
                for name in names if number < parts else ():
                    stack.enter_context(self.accelerator.no_sync(self.models[name]))
                yield micro_batch

    def backward(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Follow each loss of a micro-batch that has a gradient back; returns them without.

        Each is followed on its own, in order, so they must not share a graph.
        """
        for loss in losses.values():
            if loss.requires_grad:
                self.accelerator.backward(loss / self.config.accumulation)
        return {name: loss.detach().float() for name, loss in losses.items()}

    def update(
        self,
        names: Sequence[str],
        parts: Sequence[dict[str, Tensor]],
        number: int,
        *,
        moved: int | None = None,
        clip: float | None = None,
    ) -> dict[str, Any]:
        """Step the optimizers `names` and the average if nothing is wrong; returns the mean losses.

        On the CPU these are numbers and were checked, on an accelerator scalars that were not read.

        Args:
            parts: the losses of all micro-batches, by name; `total` is the first model's, and
                those of others have their names.
            number: of the step.
            moved: how often the first model has moved, this time included, if not once a step.
            clip: the largest norm of the first model's whole gradient.

        Raises:
            RunError: a loss is not finite, or (if checked) processes hold different gradients;
                nothing was updated. On an accelerator within `CHECK_EVERY` steps; nothing was
                updated meanwhile.
        """
        means = torch.stack([torch.stack(list(losses.values())) for losses in parts]).mean(0)
        if self.accelerator.num_processes > 1:
            means = self.accelerator.reduce(means, reduction="mean")
        means, keys = torch.as_tensor(means), list(parts[0])
        if self._failed is None:
            losses = dict(zip(keys, means.tolist(), strict=True))
            check_finite(losses, names, number)
        else:
            losses = dict(zip(keys, means.unbind(), strict=True))
            self._failed.logical_or_(~means.isfinite().all())
            self._pending.append((names, keys, number, means))
            if number % CHECK_EVERY == 0:
                self.check()
        if self.config.check_ranks:
            for name in names:
                check_ranks_agree(self.accelerator, self.models[name], name, number)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.models[names[0]].parameters(), clip)
        for name in names:
            self.optimizers[name].step()
        if names[0] == next(iter(self.models)):
            seen = (number if moved is None else moved) * self.config.batch
            self.average.update(seen=seen, images=self.config.batch)
        return losses

    def check(self) -> None:
        """Wait for an accelerator, and raise `RunError` for its first loss that was not finite."""
        pending, self._pending = self._pending, []
        numbers = iter(torch.cat([means for *_, means in pending]).tolist() if pending else ())
        for names, keys, number, _ in pending:
            losses = {key: next(numbers) for key in keys}
            check_finite(losses, names, number)

    def step(self, number: int, losses: Mapping[str, Any], *, last: bool) -> Step:
        """What step `number` leaves behind."""
        if self._failed is not None:
            losses = Losses(losses, self.check)
        return Step(number, losses, self.average.module, self.state, last)


def check_finite(losses: Mapping[str, float], models: Sequence[str], number: int) -> None:
    """Raise `RunError` naming the first loss that is not finite, and whose it is.

    Args:
        models: whose losses these are; the first one's is `total`, those of others have their
            names, and parts come before them.
    """
    wrong = [name for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        totals = {"total": models[0], **{model: model for model in models}}
        model = next((totals[name] for name in totals if name in wrong), models[-1])
        # The total goes whenever a part does, so a part is the better name for the cause.
        first = next((name for name in wrong if name != "total"), "total")
        raise RunError(
            f"the {model}'s loss stopped being finite at step {number}: its part {first!r} is "
            f"{losses[first]}; lower the learning rate, raise r1 and r2, or use full precision"
        )


def check_ranks_agree(accelerator: Accelerator, model: nn.Module, name: str, number: int) -> None:
    """Raise `RunError` where processes hold different gradients after a synchronised backward."""
    grads = [p.grad.double() for p in model.parameters() if p.grad is not None]
    if not grads:  # a step in which nothing pulls at it
        return
    checksum = torch.stack([g.sum() for g in grads] + [g.square().sum() for g in grads])
    everyone = accelerator.gather(checksum[None])
    spread = (everyone.amax(0) - everyone.amin(0)).amax()  # type: ignore[union-attr]
    if not float(spread) <= 1e-6 * float(everyone.abs().amax()):  # type: ignore[union-attr]
        raise RunError(
            f"the processes disagree on the {name}'s gradients at step {number} (checksums "
            f"differ by {float(spread):.3g}): a loss was computed outside the prepared model"
        )
