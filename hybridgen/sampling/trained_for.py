"""For which sampler a guide was trained, and what to say when it is used with another."""

import warnings
from collections.abc import Mapping
from typing import Any

_SCHEDULERS = {
    "heun": "HeunDiscreteScheduler",
    "heun_discrete": "HeunDiscreteScheduler",
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpmpp": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "edm_euler": "EDMEulerScheduler",
    "edm_dpmpp": "EDMDPMSolverMultistepScheduler",
    "flow_euler": "FlowMatchEulerDiscreteScheduler",
}
"""Our samplers' names and the diffusers schedulers that take the same steps."""


def check_trained_for(trained_for: Mapping[str, Any] | None) -> None:
    """Refuse a description that is not `{"sampler": name, "steps": number}`, more keys allowed.

    Raises:
        ValueError: see above.
    """
    if trained_for is None:
        return
    sampler, steps = (
        trained_for.get(key) if isinstance(trained_for, Mapping) else None
        for key in ("sampler", "steps")
    )
    if not isinstance(sampler, str) or not isinstance(steps, int) or steps < 1:
        raise ValueError(
            'trained_for is {"sampler": its name, "steps": their number} or None, '
            f"got {trained_for!r}"
        )


def warn_of_another_use(trained_for: Mapping[str, Any] | None, scheduler: Any, steps: int) -> None:
    """Warn, naming both, where a guide meets another scheduler or number of steps than its own.

    A guide learned the errors of one sampler; those of another may be others, or none.
    """
    if trained_for is None:
        return
    sampler, used = trained_for["sampler"], type(scheduler).__name__
    same = _SCHEDULERS.get(sampler, sampler) == used
    if sampler == "heun":
        same = same and bool(scheduler.config.get("use_karras_sigmas"))
    if same and trained_for["steps"] == steps:
        return
    warnings.warn(
        f"this guide was trained on samples of {sampler}, {trained_for['steps']} steps, and is "
        f"used with {used}, {steps} steps: it corrects errors that these samples may not have; "
        "compare with guidance_scale=0, or train a guide for this sampler",
        UserWarning,
        stacklevel=4,  # the caller of the pipeline, past the wrapper of torch.no_grad
    )
