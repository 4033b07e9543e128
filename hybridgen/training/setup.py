"""Setting a training up: the Accelerator, its logs, the adversarial loss, what is refused.

An experiment goes on in this order. Settings check themselves; `accelerator_for` seeds all
processes alike; data and networks are built, so that all processes hold equal weights; the loop's
function (`train_gan`, ...) refuses what cannot work; then the `Run` makes its folder, `start`
begins the logs and lets the draws of the processes differ, and the loop's first step prepares the
models and resumes.
"""

import os
import sys
import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DynamoBackend,
    InitProcessGroupKwargs,
    set_seed,
)
from torch import nn

from hybridgen.data.augment import Augment, twice_differentiable
from hybridgen.data.settings import AugmentSettings
from hybridgen.errors import InputError
from hybridgen.losses.adaptive import AdversarialWeight
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths.objectives import flipped, objective, smoothed
from hybridgen.networks.build import activation_bytes
from hybridgen.sampling.guidance import configured
from hybridgen.settings import check_memory
from hybridgen.training.lock import flat
from hybridgen.training.run import JsonLines, Run
from hybridgen.training.settings import AdversarialSettings, Cosine, OptimSettings, RunSettings
from hybridgen.training.terms import AuxiliaryTerm

PATIENCE = timedelta(hours=12)
"""How long processes wait for one that works alone; the backend's minutes would end the run. One
that died is noticed by its closed connections, or by the launcher."""


def accelerator_for(folder: Path, settings: RunSettings) -> Accelerator:
    """An Accelerator that logs into `folder/log.jsonl` and to the trackers named, seeded.

    Raises:
        InputError: a tracker that is not installed, or Accelerate refuses the set-up.
    """
    seed, threads, tracking = settings.seed, settings.threads, settings.tracking
    # broadcast_buffers has no full successor yet, and its warning would break the progress bar.
    warnings.filterwarnings(
        "ignore", message=".*broadcast_buffers. is deprecated", category=FutureWarning
    )
    if threads is not None:
        torch.set_num_threads(threads)
    if settings.deterministic:
        # Read by cuBLAS when it is first used; torch takes either.
        if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
    try:
        accelerator = Accelerator(
            # Without this, processes launched by torchrun on a machine that has nothing but CPUs
            # would each train alone, and nobody would say so.
            cpu=not torch.accelerator.is_available(),
            mixed_precision=settings.mixed_precision,
            log_with=[JsonLines(folder / "log.jsonl"), *tracking],
            project_dir=folder,
            # Copying buffers between processes in every forward pass would change them in place
            # between a step's two passes, and the first backward would fail.
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )
    except (ValueError, ImportError) as error:
        raise InputError(f"Accelerate cannot start with these settings: {error}") from error
    missing = set(tracking) - {str(getattr(t, "value", t)) for t in accelerator.log_with}
    if missing:
        raise InputError(
            f"no tracker {', '.join(sorted(missing))} here: install hybridgen[tracking], or drop it"
        )
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world != accelerator.num_processes:
        raise InputError(
            f"{world} processes were launched and Accelerate joined {accelerator.num_processes}: "
            "launch with torchrun, and on CPUs without --multi_gpu"
        )
    slow = accelerator.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if accelerator.mixed_precision == "bf16" and slow and accelerator.is_main_process:
        sys.stderr.write(
            "warning: this processor has no bf16 and imitates it, several times slower than "
            "--mixed_precision no\n"
        )
    set_seed(seed)
    return accelerator


def start(run: Run, project: str, settings: RunSettings) -> None:
    """Begin logging, and let the draws of the processes differ from here on."""
    start_trackers(run.accelerator, project, run.config)
    set_seed(settings.seed, device_specific=True)


def start_trackers(accelerator: Accelerator, project: str, config: Mapping[str, Any]) -> None:
    """Begin logging; nested settings are flattened to `a.b`, which every tracker takes."""
    simple = int | float | str | bool
    settings = {k: v if isinstance(v, simple) else str(v) for k, v in flat(config).items()}
    accelerator.init_trackers(project, settings)


def build_adversarial(
    discriminator: nn.Module,
    settings: AdversarialSettings | AuxiliaryTerm,
    augment: AugmentSettings | None = None,
) -> AdversarialLoss:
    """The discriminator with its objective; the loops set r1 and r2 by their schedules.

    Raises:
        InputError: the settings contradict each other, or no loss can be made of the discriminator.
    """
    if augment is not None and not augment.adaptive and augment.strength == 0:
        augment = None
    try:
        game, gp = objective(settings.objective), 0.0
        if isinstance(settings, AdversarialSettings):
            gp = settings.gp
            game = smoothed(game, settings.smoothing) if settings.smoothing else game
            game = flipped(game, settings.flips) if settings.flips else game
        return AdversarialLoss(
            discriminator,
            game,
            gp=gp,
            finite_difference=settings.finite_difference,
            augment=None if augment is None else Augment(augment),
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def warn_without_term(run: Run, steps: int, term: AuxiliaryTerm) -> None:
    """Say so if a training ends before its discriminator takes part in it."""
    if steps <= term.warm_up:
        run.say(
            f"warning: the discriminator warms up for {term.warm_up} steps and the training ends "
            f"after {steps}: no discriminator takes part in it; lower adversarial.warm_up or train "
            "for longer"
        )


def adversarial_weight(term: AuxiliaryTerm) -> AdversarialWeight:
    """The weight of a term; its warm-up is the start."""
    schedule = {"start": term.warm_up, "ramp": term.ramp}
    return AdversarialWeight(term.weight, adaptive=term.adaptive, **schedule)


def validate_memory(
    accelerator: Accelerator, config: OptimSettings, *networks: Any, times: int = 1
) -> None:
    """Refuse, by `InputError`, a batch of which one pass through a network of this package takes
    more memory than there is. Of others it is not known.

    Args:
        times: as often as a batch passes through it at once.
    """
    parts = accelerator.num_processes * config.accumulation
    ours = [network for network in networks if hasattr(network, "config")]
    kept = times * config.batch / parts * max(map(activation_bytes, ours), default=0)
    check_memory(
        kept,
        f"a batch of {config.batch} in {parts} part(s)",
        "lower training.batch or raise training.accumulation",
    )


def validate_noise(adversarial: AdversarialLoss) -> None:
    """Refuse, by `InputError`, an adversarial loss that cannot compare noisy samples."""
    if configured(adversarial.discriminator, "noise_conditional") is False:
        raise InputError(
            "the discriminator is to see noise of many levels and must know them: build it with "
            "noise_conditional=True (discriminator.noise_conditional true), or train without noise"
        )
    if adversarial.augment is not None:
        raise InputError(
            "an augmentation comes after the noise and would change its level: leave out one of "
            "the two"
        )


_ENGINES = {"NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU"}


def validate_setup(
    accelerator: Accelerator,
    config: OptimSettings,
    adversarial: AdversarialLoss | None = None,
    *penalties: Cosine,
) -> None:
    """Raise `InputError` for set-ups that would fail, or train wrongly without failing.

    Args:
        penalties: the schedules of r1 and r2; one that only begins later counts from the start.
    """
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise InputError(
            f"mixed precision {accelerator.mixed_precision!r} cannot be used here: squared "
            "gradients leave the range of fp16, so choose 'no' or 'bf16'"
        )
    if accelerator.distributed_type.value not in _ENGINES:
        raise InputError(
            f"{accelerator.distributed_type.value} takes one model at a time and a game has two: "
            "launch with plain data parallelism (accelerate launch --multi_gpu)"
        )
    plugin = accelerator.state.dynamo_plugin
    backend = plugin.backend if plugin is not None else DynamoBackend.NO
    heaviest = max((schedule.greatest for schedule in penalties), default=0.0)
    exact = adversarial is not None and adversarial.finite_difference is None and heaviest > 0
    twice = exact or (adversarial is not None and adversarial.gp > 0)
    if backend != DynamoBackend.NO and twice:
        raise InputError(
            f"the launcher's dynamo backend {backend.value!r} compiles the discriminator, and a "
            "compiled discriminator has no double backward: launch with --dynamo_backend no, or "
            "use finite-difference penalties"
        )
    if (
        twice
        and adversarial is not None
        and adversarial.augment is not None
        and not twice_differentiable()
    ):
        raise InputError(
            f"this torch ({torch.__version__}) does not differentiate the resampling of images "
            "twice, as r1, r2 and gp with augmentation need: install a newer one, or switch "
            "augmentation or the penalties off"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise InputError(
            "the launcher's gradient accumulation would step a network on half a batch: leave it "
            "at 1 and set --training.accumulation instead"
        )
    parts = accelerator.num_processes * config.accumulation
    if config.batch % parts:
        raise InputError(
            f"a batch of {config.batch} cannot be cut evenly over {accelerator.num_processes} "
            f"process(es) x {config.accumulation} accumulated part(s): choose a multiple of {parts}"
        )
