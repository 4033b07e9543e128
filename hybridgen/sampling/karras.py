"""EDM's own sampler as a diffusers scheduler, so that a pipeline can be saved with it."""

from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler

from hybridgen.maths.noise import karras_sigmas


def heun_scheduler(
    low: float = 0.002, high: float = 80.0, table: int = 200
) -> HeunDiscreteScheduler:
    """Heun's method on the noise levels of `karras_sigmas(steps, low, high)`, rho 7.

    `HeunDiscreteScheduler` makes its levels from a table of betas, so the whole grid is written
    as one: `beta_i = 1 - abar_i / abar_{i-1}` with `abar = 1 / (1 + sigma^2)`. Any other scheduler
    made by `.from_config(scheduler.config)` covers the same levels. It is for denoisers of this
    package, which know sigma and no timesteps.

    Raises:
        ValueError: not `0.001 <= low < high <= 1000`; beyond, float32 betas have no digits left.
    """
    if not 0.001 <= low < high <= 1000:
        raise ValueError(f"need 0.001 <= low < high <= 1000, got {low=}, {high=}")
    sigmas = karras_sigmas(table, low, high)[:-1].flip(0)
    kept = 1 / (1 + sigmas.square())
    before = kept.roll(1)
    before[0] = 1
    return HeunDiscreteScheduler(
        num_train_timesteps=table,
        trained_betas=(1 - kept / before).tolist(),
        use_karras_sigmas=True,
    )
