"""One variable at a time, a small autoregressive model of the digits, beside a single pass."""

import math
import time
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from lecture_networks import LATENT
from lecture_parts import DATA, INK, MUTED, Check, Statement, axes_of, panel
from lecture_recipes import (
    DIGITS,
    LEVELS,
    SAMPLES,
    TODAY,
    gallery,
    generated,
    images_of,
    levels_of,
    quality,
    trained,
)
from torch import Tensor, nn

from hybridgen.data.source import Shard
from hybridgen.report.text import number, seconds

if TYPE_CHECKING:
    from lecture import Lecture


class MaskedLinear(nn.Linear):
    """A linear layer of which only the weights in `mask [out in]` are there."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class Autoregressive(nn.Module):
    """`p(x) = prod_i p(x_i | x_1 ... x_(i-1))` of whole numbers below `levels`, by one masked
    network: numbers `[b n]` to logits `[b n levels]`, those of place i from places before it alone.

    Source: Germain et al. 2015 (MADE), arXiv:1502.03509, section 3.
    """

    def __init__(
        self, *, size: int, levels: int, width: int = 256, depth: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.size, self.levels = size, levels
        place, hidden = torch.arange(size), torch.arange(width) % max(1, size - 1)
        degrees = [place, *[hidden] * depth]
        masks = [b[:, None] >= a for a, b in pairwise(degrees)]
        layers = [(MaskedLinear(m), nn.ReLU(), nn.Dropout(dropout)) for m in masks]
        last = MaskedLinear((place[:, None] > hidden).repeat_interleave(levels, dim=0))
        self.network = nn.Sequential(*(part for layer in layers for part in layer), last)

    def forward(self, x: Tensor) -> Tensor:
        h = self.network(x.float() * (2 / (self.levels - 1)) - 1)
        return rearrange(h, "b (n l) -> b n l", l=self.levels)

    def bits(self, x: Tensor) -> Tensor:
        """`- log2 p(x) / n`, exactly, `[b]`."""
        nats = F.cross_entropy(self(x).flatten(0, 1), x.long().flatten(), reduction="none")
        return rearrange(nats, "(b n) -> b n", n=self.size).mean(dim=1) / math.log(2)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Numbers `[count n]`, one place after the other: n calls of the network."""
        x = torch.zeros(count, self.size)
        for i in range(self.size):
            x[:, i] = torch.multinomial(self(x)[:, i].softmax(dim=1), 1)[:, 0].float()
        return x


def rows_of(x: Tensor) -> Tensor:
    """Images `[b 1 h w]` as grey levels `[b h*w]`, row by row."""
    return rearrange(levels_of(x), "b 1 h w -> b (h w)")


def independent_bits(train: Tensor, test: Tensor) -> float:
    """Bits a pixel of `test [m n]` by the histograms of every pixel of `train [n]` alone, with one
    more of each level."""
    counts = F.one_hot(train.long(), LEVELS).sum(dim=0).double() + 1
    shares = counts / counts.sum(dim=1, keepdim=True)
    return float(-shares.log2().expand(len(test), -1, -1).gather(2, test.long()[..., None]).mean())


def one_by_one(settings: "Lecture") -> tuple[Autoregressive, list[tuple[int, float, float]]]:
    """The model trained by maximum likelihood, and after some steps the bits of the batch and held
    out, both without dropout."""
    model = Autoregressive(size=64, levels=LEVELS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    steps = settings.scaled(1_000)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    held_out, curve = rows_of(DIGITS.reference("held_out", 297)[0]), []
    batches = DIGITS.batches(Shard(batch=64, seed=settings.seed))
    for step, (x, _) in zip(range(1, steps + 1), batches, strict=False):
        optimizer.zero_grad()
        loss = model.bits(rows_of(x)).mean()
        loss.backward()
        optimizer.step()
        decay.step()
        if step == steps or step % max(1, steps // 40) == 0:
            with torch.no_grad():
                sets = (rows_of(x), held_out)
                curve.append((step, *(float(model.eval().bits(each).mean()) for each in sets)))
            model.train()
    return model.eval().requires_grad_(False), curve


class Timed(NamedTuple):
    """Samples, the CPU seconds of each, and the calls of a network that made them."""

    samples: Tensor
    seconds: float
    calls: int


def timed(draw: Callable[[int], Tensor], count: int, network: nn.Module) -> Timed:
    """Draws so many samples at once, and counts the network's forward passes."""
    passes = []
    hook = network.register_forward_hook(lambda *_: passes.append(1))
    start = time.process_time()
    samples = draw(count)
    spent = time.process_time() - start
    hook.remove()
    return Timed(samples, spent / count, len(passes))


def single_pass(settings: "Lecture") -> Statement:
    """The latest generator beside a model that draws one pixel after the other."""
    model, curve = one_by_one(settings)
    generator = trained(settings, TODAY).generator
    torch.manual_seed(settings.seed)
    draws = {
        "one pass": (lambda n: generated(generator, torch.randn(n, LATENT)), generator),
        "pixel by pixel": (lambda n: images_of(model.sample(n).reshape(n, 1, 8, 8)), model),
    }
    runs = {name: timed(draw, SAMPLES, network) for name, (draw, network) in draws.items()}
    distance = {name: quality(run.samples).distance for name, run in runs.items()}
    train = rows_of(DIGITS.reference("train", DIGITS.size)[0])
    test = rows_of(DIGITS.reference("held_out", 297)[0])
    alone = independent_bits(train, test)
    steps, batch, held_out = zip(*curve, strict=True)
    axes = axes_of("step", "bits a pixel", height=300)
    axes.axhline(alone, color=MUTED, ls="--", label="pixels alone")
    axes.plot(steps, batch, ":", color=DATA, lw=1.4, label="a training batch")
    axes.plot(steps, held_out, color=INK, lw=2, label="held out")
    one, many = runs.values()
    return Statement(
        short="a single pass",
        title="A sample is one pass, not one variable at a time",
        at="10:57",
        sentence=f"An autoregressive model calls its network for each of {model.size} pixels in "
        f"turn, {number(many.seconds / one.seconds, 2)} times the seconds of one pass of the "
        "generator; what it has and a GAN has not is an exact likelihood: held-out digits cost "
        f"{number(held_out[-1])} bits a pixel, pixels alone {number(alone)}.",
        checks=(
            Check("calls, one pass", one.calls, 1),
            Check("calls, pixel by pixel", many.calls, model.size),
            Check(
                "seconds to those of one pass", many.seconds / one.seconds, 3, relation="at least "
            ),
            Check(
                "bits a held-out pixel to those of pixels alone",
                held_out[-1] / alone,
                0.95,
                relation="at most ",
            ),
            Check("distance, one pass", distance["one pass"], 15, 0, "at most "),
            Check(
                "distance, pixel by pixel",
                distance["pixel by pixel"],
                15,
                relation="at most ",
            ),
        ),
        panels=(
            panel(
                axes,
                "likelihood",
                f"- log2 p(x) / 64; all {LEVELS} levels alike: {number(math.log2(LEVELS))}.",
            ),
            *(
                gallery(
                    run.samples,
                    f"Drawn {name}, calls: {run.calls}, {seconds(run.seconds)} a sample, "
                    f"Fr\u00e9chet distance {number(distance[name])}.",
                )
                for name, run in runs.items()
            ),
        ),
        note="Distances are of LeNet features of 1 000 samples to 297 held-out digits, 8x8 pixels.",
    )
