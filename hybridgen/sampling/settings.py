"""How noise becomes samples, and how finished ones are refined."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from hybridgen.errors import InputError
from hybridgen.settings import Level, Range, Settings

How = Literal["rejection", "metropolis_hastings", "importance"]

# Spelled out for type checkers and `--help`: `heun` and the names of `SCHEDULERS`.
SamplerName = Literal[
    "heun",
    "ddpm",
    "ddim",
    "dpmpp",
    "unipc",
    "euler",
    "heun_discrete",
    "edm_euler",
    "edm_dpmpp",
    "flow_euler",
    "consistency",
]


@dataclass(frozen=True, kw_only=True)
class SamplerSettings(Settings):
    """How noise becomes samples.

    Attributes:
        name: `heun` (EDM's, two calls a step but one for the last) or a scheduler of diffusers:
            `ddpm`, `ddim`, `dpmpp`, `unipc`, `euler`, `heun_discrete` on the usual linear betas
            (noise levels .01 to 157), `edm_euler`, `edm_dpmpp`, or `flow_euler`; or `consistency`,
            which estimates, adds the noise of the next level and estimates again, for denoisers of
            `experiments/distill.py` and other consistency models.
        steps: noise levels visited, 0 not counted.
        low: the lowest of `heun` and `edm_*`; what `consistency`'s levels would end in; the others
            have their own.
        high: the highest of `heun`, `edm_*` and `consistency`; the others show the denoiser no
            higher one.
        rho: how densely these visit low levels.
    """

    name: SamplerName = "heun"
    steps: Annotated[int, Range(1, 1_000)] = 18
    low: Level = 0.002
    high: Level = 80.0
    rho: Annotated[float, Range(0.1, 100)] = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "heun" and self.steps < 2:
            raise InputError(f"sampler heun takes at least 2 steps, got {self.steps}")
        # Of every sampler, so that a setting does not turn wrong when the name changes.
        if not self.low < self.high:
            raise InputError(f"sampler: low must be below high, got {self.low} and {self.high}")

    @property
    def settable(self) -> bool:
        """Whether `low` and `high` are where it ends and begins."""
        return self.name == "heun" or self.name.startswith("edm_")

    def beginning_at(self, level: float) -> "SamplerSettings":
        """The same from another highest level, with steps as dense; at least 2."""
        low, high, begin = (each ** (1 / self.rho) for each in (self.low, self.high, level))
        steps = 1 + round((self.steps - 1) * (begin - low) / (high - low))
        return replace(self, high=level, steps=max(2, steps))


@dataclass(frozen=True, kw_only=True)
class StudentSettings(Settings):
    """How many calls a student samples in, and at which noise levels: see `consistency` in
    `SamplerSettings`.

    Attributes:
        calls: of the student for a sample. Divisors are budgets too: of 4 calls, 2 and 1 visit
            some of the same levels.
        low: the last level of the grid, at which nothing is estimated any more: the higher it is,
            the higher are the levels before it, of which few calls have few to spare.
        high: the first level.
        rho: how densely they lie near `low`.
    """

    calls: Annotated[int, Range(1, 64)] = 1
    low: Level = 0.002
    high: Level = 80.0
    rho: Annotated[float, Range(0.1, 100)] = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.sampler  # refuses levels that do not fall

    @property
    def budgets(self) -> list[int]:
        """Numbers of calls in which it can sample, its own last."""
        return [calls for calls in range(1, self.calls + 1) if self.calls % calls == 0]

    @property
    def levels(self) -> list[float]:
        """The noise levels of all its calls, highest first."""
        from hybridgen.maths.noise import karras_sigmas  # which needs torch

        grid = karras_sigmas(self.calls + 1, self.low, self.high, self.rho)
        return grid[: self.calls].tolist()

    @property
    def sampler(self) -> SamplerSettings:
        """The sampler of all its calls."""
        return self.with_calls(self.calls)

    def with_calls(self, calls: int) -> SamplerSettings:
        """The sampler of one of its budgets; `InputError` if it is none."""
        if calls not in self.budgets:
            raise InputError(
                f"a student of {self.calls} calls samples in {', '.join(map(str, self.budgets))}, "
                f"and not in {calls}: choose one of these, or train another student"
            )
        ends = {"low": self.low, "high": self.high, "rho": self.rho}
        return SamplerSettings(name="consistency", steps=calls, **ends)


def with_calls(settings: SamplerSettings, calls: int) -> SamplerSettings:
    """The sampler with as many steps as make `calls` denoiser calls.

    Raises:
        InputError: it makes no such number of calls.
    """
    if settings.name not in ("heun", "heun_discrete"):
        return replace(settings, steps=calls)
    if calls % 2 == 0:
        raise InputError(
            f"{settings.name} makes an odd number of calls, so {calls} is not one of its budgets: "
            "give odd budgets or another sampler"
        )
    return replace(settings, steps=(calls + 1) // 2)
