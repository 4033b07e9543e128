"""What is refused before training, and what stops it: each with its reason in one sentence."""

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, DynamoBackend
from torch import nn

from hybridgen.errors import InputError, RunError
from hybridgen.losses.adversarial import AdversarialLoss

_ENGINES = {
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
    DistributedType.MULTI_NPU,
}


def refuse_what_cannot_work(
    accelerator: Accelerator,
    adversarial: AdversarialLoss | None,
    batch: int,
    accumulation: int,
) -> None:
    """Raise `InputError` for set-ups that would fail, or train wrongly without failing."""
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise InputError(
            f"mixed precision {accelerator.mixed_precision!r} cannot be used here: squared "
            "gradients leave the range of fp16, so choose 'no' or 'bf16'"
        )
    if accelerator.distributed_type not in _ENGINES:
        raise InputError(
            f"{accelerator.distributed_type.value} takes one model at a time and a game has two "
            "players: launch with plain data parallelism (accelerate launch --multi_gpu)"
        )
    plugin = accelerator.state.dynamo_plugin
    backend = plugin.backend if plugin is not None else DynamoBackend.NO
    twice = adversarial is not None and adversarial.twice_differentiated
    if backend != DynamoBackend.NO and twice:
        raise InputError(
            f"the launcher's dynamo backend {backend.value!r} compiles the critic, and a compiled "
            "critic has no double backward: launch with --dynamo_backend no, or use "
            "finite-difference penalties"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise InputError(
            "the launcher's gradient accumulation would step one player on half a batch: leave it "
            "at 1 and set --training.accumulation instead"
        )
    parts = accelerator.num_processes * accumulation
    if batch % parts:
        raise InputError(
            f"a batch of {batch} cannot be cut evenly over {accelerator.num_processes} process(es) "
            f"x {accumulation} accumulated part(s): choose a multiple of {parts}"
        )


def check_finite(parts: Mapping[str, float], player: str, number: int) -> None:
    """Raise `RunError` naming the first part of a player's loss that is not finite."""
    wrong = [name for name, value in parts.items() if not math.isfinite(value)]
    if wrong:
        # The total goes whenever a part does, so a part is the better name for the cause.
        first = next((name for name in wrong if name != "total"), "total")
        raise RunError(
            f"the {player}'s loss stopped being finite at step {number}: its part {first!r} is "
            f"{parts[first]}; lower the learning rate, raise r1 and r2, or use full precision"
        )


def check_ranks_agree(accelerator: Accelerator, model: nn.Module, player: str, number: int) -> None:
    """Raise `RunError` where processes hold different gradients after a synchronised backward."""
    grads = [p.grad.double() for p in model.parameters() if p.grad is not None]
    checksum = torch.stack([g.sum() for g in grads] + [g.square().sum() for g in grads])
    everyone = accelerator.gather(checksum[None])
    spread = (everyone.amax(0) - everyone.amin(0)).amax()  # type: ignore[union-attr]
    if not float(spread) <= 1e-6 * float(everyone.abs().amax()):  # type: ignore[union-attr]
        raise RunError(
            f"the processes disagree on the {player}'s gradients at step {number} (checksums "
            f"differ by {float(spread):.3g}): a loss was computed outside the prepared model"
        )
