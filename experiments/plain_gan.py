"""A GAN as one would write it by hand, without the loss and the loop of hybridgen.

What `experiments/benchmark.py` measures our loop against, and a short way to read what it does.
"""

import copy
from collections.abc import Iterator
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridgen.data.source import Batch
from hybridgen.training.gan import GanTraining


def plain_loop(
    generator: nn.Module,
    discriminator: nn.Module,
    batches: Iterator[Batch],
    latents: Iterator[Tensor],
    training: GanTraining,
) -> Iterator[nn.Module]:
    """Train for ever; yields the averaged generator after every step.

    Relativistic game, R1 and R2 by one gradient call, fused Adam, a moving average of weights and
    buffers; the schedules stay at their start.
    """
    rate, betas = training.learning_rate.start, (0.0, training.beta2.start)
    g_opt = torch.optim.Adam(generator.parameters(), rate, betas=betas, fused=True)
    c_opt = torch.optim.Adam(discriminator.parameters(), rate, betas=betas, fused=True)
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    pairs = list(zip(average.state_dict().values(), generator.state_dict().values(), strict=True))
    kept, moving = zip(*[pair for pair in pairs if pair[0].is_floating_point()], strict=True)
    counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    for number in count(1):
        real, _ = next(batches)
        with torch.no_grad():
            fake = generator(next(latents))
        x = torch.cat([real, fake]).requires_grad_()
        logits = discriminator(x)
        (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        r1, r2 = slope.square().flatten(1).sum(1).chunk(2)
        on_real, on_fake = logits.chunk(2)
        loss = F.softplus(on_fake - on_real).mean()
        loss = loss + training.r1.start / 2 * r1.mean() + training.r2.start / 2 * r2.mean()
        c_opt.zero_grad()
        loss.backward()
        c_opt.step()

        real, _ = next(batches)
        discriminator.requires_grad_(False)
        with torch.no_grad():
            on_real = discriminator(real)
        loss = F.softplus(on_real - discriminator(generator(next(latents)))).mean()
        g_opt.zero_grad()
        loss.backward()
        g_opt.step()
        discriminator.requires_grad_(True)

        half_life = min(training.ema_half_life, training.ema_ramp * number * training.batch)
        with torch.no_grad():
            torch._foreach_lerp_(kept, moving, 1 - 0.5 ** (training.batch / half_life))  # type: ignore
            for mine, theirs in counters:
                mine.copy_(theirs)
        yield average
