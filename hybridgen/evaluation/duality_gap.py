"""The duality gap: what either network of a GAN could still win against the other as it is."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridgen.data.source import Batch
from hybridgen.errors import InputError, RunError
from hybridgen.losses.answers import mean_logit, read_answer
from hybridgen.losses.discriminators import PerSample
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.intervals import Estimate, Z
from hybridgen.networks.blocks import in_chunks
from hybridgen.training.validation import offsets


def duality_gap(
    generator: nn.Module,
    discriminator: nn.Module,
    training: Batch,
    held_out: Batch,
    *,
    latent: int,
    steps: int = 300,
    batch: int = 256,
    learning_rate: float = 1e-3,
    perturbation: float = 0.0,
    centred: bool = False,
    seed: int = 0,
) -> dict[str, Estimate]:
    """`max_v' M(u, v') - min_u' M(u', v)` of a generator u and a discriminator v, in nats.

    `M(u, v) = E log D_v(x) / 2 + E log (1 - D_v(G_u(z))) / 2` is the minimax value, whatever the
    two were trained by. The worst-case players v' and u' begin as copies and are trained by it on
    `training`; the gap is of `held_out` and of latents not trained on. With ideal players it is at
    least the Jensen-Shannon divergence of data and samples, and 0 only where neither can win.
    Players trained for too few steps make it smaller; it may then be below 0. `min M` has no bound
    where logits grow without one away from the data, as they may before a discriminator was trained
    on much; the gap is then huge. The networks that are given, their gradients, and everybody's
    random state stay as they are.
    Source: Grnarova et al. 2019, arXiv:1811.05512, section 3; with a perturbation Sidheekh et al.
    2020, arXiv:2012.06723.

    Args:
        generator: `(noise [b latent], label) -> samples [b ...]`.
        discriminator: anything that `AdversarialLoss` takes; of patches each counts alike.
        training, held_out: real samples `[n ...]` and their labels, or `None`, on the networks'
            device; disjoint.
        steps: Adam's, of each worst-case network, on `batch` real samples and as many latents.
        perturbation: deviation of the noise on the weights that the players begin with, so that
            they do not stay where the gradient vanishes; the source's is .1.
        centred: first take the constant from the logits that makes v right about u on average. A
            relativistic discriminator needs it: only differences of its logits mean anything.

    Returns:
        `duality_gap`, and two parts that sum to it: `gap_discriminator`, `max M + log 2`, itself a
        held-out bound of the Jensen-Shannon divergence, and `gap_generator`, `-log 2 - min M`, how
        far v is from being fooled by nobody. The intervals are about the draw of held-out samples.

    Raises:
        InputError: no step, or sets that differ in shape or are too small.
        RunError: a value is not finite.
    """
    (x, labels), (test, test_labels) = training, held_out
    if min(steps, batch) < 1 or not (learning_rate > 0 and 0 <= perturbation < math.inf):
        raise InputError(
            "worst-case players need steps, a batch and a learning rate above 0, and a "
            f"perturbation of at least 0, got {steps}, {batch}, {learning_rate} and {perturbation}"
        )
    if x.shape[1:] != test.shape[1:] or min(len(x), len(test)) < 2:
        raise InputError(
            "the duality gap needs at least two samples of one shape in either set, got "
            f"{list(x.shape)} and {list(test.shape)}"
        )
    u, plain = (copy.deepcopy(m).eval().requires_grad_(False) for m in (generator, discriminator))

    def draw(*key: int | str) -> tuple[Tensor, Tensor, Tensor | None]:
        rng = rng_for("duality gap", seed, *key)
        rows = torch.randint(len(x), (batch,), generator=rng).to(x.device)
        noise = torch.randn(batch, latent, generator=rng).to(x)
        return noise, x[rows], None if labels is None else labels[rows]

    with torch.random.fork_rng(range(torch.cuda.device_count())):  # of dropout, say
        torch.manual_seed(seed)
        offset = 0.0
        if centred:
            draws = [draw("offset", number) for number in range(-(-len(test) // batch))]
            offset = _even_offset(PerSample(plain), u, draws)
        v = _LogProbability(plain, offset)

        def discriminator_loss(network: nn.Module, number: int) -> Tensor:
            noise, real, label = draw("discriminator", number)
            with torch.no_grad():
                fake = u(noise, label)
            return -(network(real, label, True) + network(fake, label, False)).mean()

        def generator_loss(network: nn.Module, number: int) -> Tensor:
            noise, _, label = draw("generator", number)
            return v(network(noise, label), label, False).mean()

        options = {"steps": steps, "learning_rate": learning_rate, "perturbation": perturbation}
        trainable = _LogProbability(discriminator, offset)
        worst_v = _worst(trainable, discriminator_loss, rng_for("v", seed), **options)
        worst_u = _worst(generator, generator_loss, rng_for("u", seed), **options)

        noise = torch.randn(len(test), latent, generator=rng_for("test", seed)).to(test)

        def terms(g: nn.Module, d: nn.Module) -> list[Tensor]:
            """What M is the mean of, of real and of generated samples; `[n]` each."""
            real = in_chunks(lambda s, y: d(s, y, True), test, test_labels, size=batch)
            fake = in_chunks(lambda z, y: d(g(z, y), y, False), noise, test_labels, size=batch)
            return [real.cpu().double(), fake.cpu().double()]

        with torch.no_grad():
            best, least = terms(u, worst_v), terms(worst_u, v)
    log2 = math.log(2)
    return {
        "duality_gap": _mean([a - b for a, b in zip(best, least, strict=True)]),
        "gap_discriminator": _mean([log2 + a for a in best]),
        "gap_generator": _mean([-log2 - b for b in least]),
    }


class _LogProbability(nn.Module):
    """`log D(x)` of real samples, `log (1 - D(x))` of others: `[b ...] -> [b]`."""

    def __init__(self, discriminator: nn.Module, offset: float) -> None:
        super().__init__()
        self.discriminator, self.offset = discriminator, offset

    def forward(self, x: Tensor, label: Tensor | None, real: bool) -> Tensor:
        logits, _ = read_answer(self.discriminator(x, x.new_zeros(len(x)), label), len(x))
        sign = 1 if real else -1
        return mean_logit([F.logsigmoid(sign * (each - self.offset)) for each in logits])


def _worst(
    network: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    rng: torch.Generator,
    *,
    steps: int,
    learning_rate: float,
    perturbation: float,
) -> nn.Module:
    """A copy of a network after so many steps down a loss of it and of the step's number."""
    worst = copy.deepcopy(network).train()
    if not any(p.requires_grad for p in worst.parameters()):  # an average
        worst.requires_grad_(True)
    parameters = [p for p in worst.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in parameters:
            p += perturbation * torch.randn(p.shape, generator=rng).to(p)
    optimizer = torch.optim.Adam(parameters, learning_rate)
    for number in range(steps):
        gradients = torch.autograd.grad(loss(worst, number), parameters, allow_unused=True)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        optimizer.step()
    return worst.eval().requires_grad_(False)


@torch.no_grad()
def _even_offset(logit: nn.Module, generator: nn.Module, draws: list[Any]) -> float:
    """What to take from the logits so that the mean probabilities of real and generated samples sum
    to 1, where the minimax value is greatest."""
    pairs = [(x, generator(noise, label), label) for noise, x, label in draws]
    real, fake = (
        torch.cat([logit(s, s.new_zeros(len(s)), y) for s, y in side]).double()
        for side in ([(x, y) for x, _, y in pairs], [(f, y) for _, f, y in pairs])
    )
    return -float(offsets(real[None], fake[None]))


def _mean(sides: list[Tensor]) -> Estimate:
    """Half the sum of the means of what real and generated samples say, with its interval."""
    value = sum(float(x.mean()) for x in sides) / 2
    reach = Z * math.sqrt(sum(float(x.var()) / len(x) for x in sides)) / 2
    if not math.isfinite(value + reach):
        raise RunError(
            "the duality gap is not finite: check the samples, or lower the learning rate of the "
            "worst-case players"
        )
    return Estimate(value=value, low=value - reach, high=value + reach)
