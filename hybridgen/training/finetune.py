"""Fine-tuning: a finished denoiser learns to tell data from the samples that it made before.

Its discriminator is itself: the log likelihood ratio to the model that it started from. What tells
best is the ratio of data to that model, so it ends as a model of the data (Zheng et al. 2025, DDO,
arXiv:2503.01103).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from einops import rearrange, repeat
from torch import Tensor, nn

from hybridgen.losses.denoising import noised
from hybridgen.losses.distillation import direct_discriminative_loss, log_likelihood_ratio
from hybridgen.maths.noise import stratified
from hybridgen.maths.rng import rng_for
from hybridgen.training.optim import TrainingSetup, schedule
from hybridgen.training.settings import FinetuneTraining
from hybridgen.training.setup import validate_setup
from hybridgen.training.step import Batches, Resume, Step

Losses = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class LikelihoodRatioGame:
    """The loss of a micro-batch: `direct_discriminative_loss` of log likelihood ratios of the tuned
    denoiser to its start.

    Attributes:
        start: the denoiser as it was before; answers without gradient.
    """

    start: Any
    config: FinetuneTraining
    accelerator: Accelerator

    def __call__(
        self,
        denoiser: nn.Module,
        real: Tensor,
        fake: Tensor,
        label: Tensor | None,
        fake_label: Tensor | None,
        sigma: Tensor,
        noise: Tensor,
    ) -> Losses:
        """`total`, and the mean ratios of real and of generated samples in nats.

        Args:
            denoiser: as prepared for training; asked once.
            sigma: `[b l]`, the levels of each sample, real and generated alike, and
            noise: `[b l ...]`.
        """
        ratio = self.ratio(
            denoiser,
            torch.cat([real, fake]),
            None if label is None or fake_label is None else torch.cat([label, fake_label]),
            torch.cat([sigma, sigma]),
            torch.cat([noise, noise]),
        )
        real_ratio, fake_ratio = ratio.chunk(2)
        weights = {"sharpness": self.config.sharpness, "fake_weight": self.config.fake_weight}
        total = direct_discriminative_loss(real_ratio, fake_ratio, **weights).mean()
        parts = {"real_ratio": real_ratio.mean(), "fake_ratio": fake_ratio.mean()}
        return {name: part.detach() for name, part in parts.items()} | {"total": total}

    def ratio(
        self, denoiser: nn.Module, x0: Tensor, label: Tensor | None, sigma: Tensor, noise: Tensor
    ) -> Tensor:
        """`log p_tuned - log p_start` of `x0 [b ...]`, `[b]`: the mean of estimates at the levels
        `sigma [b l]`.
        """
        levels = sigma.shape[1]
        x0 = repeat(x0, "b ... -> (b l) ...", l=levels)
        label = None if label is None else repeat(label, "b -> (b l)", l=levels)
        level = rearrange(sigma, "b l -> (b l)")
        x = noised(x0, level, rearrange(noise, "b l ... -> (b l) ..."))
        with torch.no_grad(), self.accelerator.autocast():
            start = self.start(x, level, label)
        tuned = denoiser(x, level, label)
        ratio = log_likelihood_ratio(tuned, start, x0, level, self.config.noise.density)
        return rearrange(ratio, "(b l) -> b l", l=levels).mean(1)


def train_finetune(
    denoiser: nn.Module,
    real_batches: Batches,
    fake_batches: Batches,
    config: FinetuneTraining,
    accelerator: Accelerator,
    *,
    seed: int = 0,
    resume: Resume | None = None,
) -> Iterator[Step]:
    """Fine-tune a denoiser against its own samples, one `Step` at a time; the caller decides what
    to do between steps.

    Noise and levels are drawn for the whole batch and each process keeps its share; real and
    generated samples, the denoiser and its start get the same ones. There is no dropout: the ratio
    is 0 at the start.

    Args:
        denoiser: `(x [b ...], sigma [b], label) -> x0 [b ...]`, finished. As it is now it is the
            start that it is compared with, also when a training is resumed.
        real_batches: gives this process's share of the real batches from batch number n on.
        fake_batches: the same of samples that the denoiser made.
        seed: names every random draw of the loop.
        resume: called before the first step; fills the state from a checkpoint and returns the
            number of its step.

    Raises:
        InputError: the set-up cannot work; said at once, before the first step is asked for.
        RunError: a loss is not finite; nothing was updated by it.
    """
    validate_setup(accelerator, config)

    def steps() -> Iterator[Step]:
        setup = TrainingSetup(accelerator, config, denoiser=denoiser.eval())
        # The average before its first update: the start, on its device, in its memory format.
        game = LikelihoodRatioGame(copy.deepcopy(setup.average.module), config, accelerator)
        done = resume(setup.state) if resume is not None else 0
        real_stream, fake_stream, total = real_batches(done), fake_batches(done), config.steps
        if done == total:
            yield setup.step(done, {}, last=True)

        for number in range(done + 1, total + 1):
            rate = config.learning_rate((number - 1) / total)
            schedule(setup.optimizers["denoiser"], rate, (0.9, 0.99))
            (real, label), (fake, fake_label) = next(real_stream), next(fake_stream)
            rng = rng_for(seed, "noise", number, device=setup.device)
            drawn = _draw(setup, real, config, rng)
            batch, parts = (real, fake, label, fake_label, *drawn), []
            for micro_batch in setup.micro_batches(["denoiser"], *batch):
                parts.append(setup.backward(game(setup.models["denoiser"], *micro_batch)))
            losses = setup.update(["denoiser"], parts, number)
            yield setup.step(number, losses, last=number == total)

    return steps()


def _draw(
    setup: TrainingSetup, x: Tensor, config: FinetuneTraining, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The share of levels `[b l]` and noise `[b l ...]`, of samples like `x [? ...]`.

    A sample has a level in each of l equal shares of the distribution, and the batch has every
    level.
    """
    batch, levels = config.batch, config.levels
    shares = [number + stratified(batch, rng, x.device) for number in range(levels)]
    uniform = torch.stack(shares, 1).to(x) / levels
    noise = setup.normal(rng, batch, x, levels, *x.shape[1:])
    return setup.share(config.noise(uniform)), noise
