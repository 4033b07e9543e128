"""Fine-tuning: that it begins where it should, goes to the data, and goes on bit for bit."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from oracles import one_dimensional
from torch import nn
from training.workers.two_diffusions import SOURCE, finetune_outcome, players

from hybridgen.data.points import MixturePoints
from hybridgen.data.source import Shard
from hybridgen.errors import InputError, RunError
from hybridgen.training.finetune import LikelihoodRatioGame, train_finetune
from hybridgen.training.run import Run
from hybridgen.training.settings import Cosine, FinetuneTraining, LogUniform


@dataclass(frozen=True)
class Settings:
    out: Path | None = None


def config_of(**changes):
    return FinetuneTraining(**{"steps": 5, "batch": 16, "levels": 2, "sharpness": 1.0, **changes})


def train(config=None, denoiser=None, *, real=SOURCE, fake=SOURCE, accelerator=None, **given):
    config = config or config_of()

    def batches(source, seed):
        return lambda first: source.batches(Shard(batch=config.batch, seed=seed, start=first))

    return train_finetune(
        players()[0] if denoiser is None else denoiser,
        batches(real, 1),
        batches(fake, 2),
        config,
        accelerator or Accelerator(cpu=True),
        **given,
    )


class Gaussian(nn.Module):
    """The exact denoiser of a normal distribution in one dimension."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(float(mean)))
        self.log_std = nn.Parameter(torch.tensor(float(std)).log())

    def forward(self, x, sigma, label=None):
        variance, noise = (2 * self.log_std).exp(), sigma[:, None] ** 2
        return (variance * x + self.mean * noise) / (variance + noise)


def normal(mean, std):
    return MixturePoints(mixture=one_dimensional([1.0], [mean], [std]), name="normal")


def test_a_gaussian_model_is_led_to_the_data():
    """With a mean over many levels, or the estimate's noise would count as a blunter game."""
    config = config_of(
        steps=300,
        batch=256,
        levels=16,
        noise=LogUniform(low=0.02, high=50.0),
        learning_rate=Cosine(start=0.03, end=1e-3),
        ema_half_life=1_000.0,
    )
    *_, last = train(config, Gaussian(1, 1.5), real=normal(0, 1), fake=normal(1, 1.5))
    assert float(last.average.mean) == pytest.approx(0, abs=0.12)
    assert float(last.average.log_std.exp()) == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("a", [0.5, 1.0, 4.0])
def test_the_ratio_is_zero_at_the_start_and_while_nothing_is_learnt(a):
    config = config_of(fake_weight=a, learning_rate=Cosine(start=0.0), accumulation=2)
    for step in train(config):
        assert step.losses["total"] == pytest.approx((1 + a) * math.log(2))
        assert step.losses["real_ratio"] == step.losses["fake_ratio"] == 0


def test_dropout_takes_no_part():
    class Dropping(Gaussian):
        def forward(self, x, sigma, label=None):
            return super().forward(nn.functional.dropout(x, 0.5, self.training), sigma)

    step = next(train(denoiser=Dropping(0, 1).train(), real=normal(0, 1), fake=normal(1, 1)))
    assert step.losses["real_ratio"] == step.losses["fake_ratio"] == 0


class Noting(Gaussian):
    """Remembers, with all its copies, what it was asked, and its mean then."""

    asked: ClassVar[list] = []

    def forward(self, x, sigma, label=None):
        self.asked.append((x.detach(), sigma, label, self.mean.item(), torch.is_grad_enabled()))
        return super().forward(x, sigma)


@pytest.fixture
def asked():
    Noting.asked.clear()
    return Noting.asked


def test_the_start_stays_and_gets_the_noisy_samples_of_the_tuned(asked):
    list(train(denoiser=Noting(1, 1), real=normal(0, 1), fake=normal(1, 1)))
    starts, tuned = asked[::2], asked[1::2]
    assert len(asked) == 10
    for (x, sigma, *start), (y, level, *_) in zip(starts, tuned, strict=True):
        assert torch.equal(x, y) and torch.equal(sigma, level)
        assert start == [None, 1.0, False]
    assert len({mean for *_, mean, _ in tuned}) == 5 and all(call[-1] for call in tuned)


def test_a_sample_has_a_level_in_each_share_and_real_and_generated_ones_the_same(asked):
    config = config_of(steps=1, levels=3, noise=LogUniform(low=0.1, high=10.0))
    step = next(train(config, Noting(1, 1), real=normal(0, 1e-6), fake=normal(3, 1e-6)))
    x, sigma, *_ = asked[0]
    real, fake = sigma.unflatten(0, (-1, 3)).chunk(2)
    assert torch.equal(real, fake)
    share = (real.log() - math.log(0.1)) / math.log(100) * 3
    assert torch.equal(share.floor(), torch.arange(3.0).expand(16, 3))
    assert torch.equal(((share % 1) * 16).floor().sort(0).values[:, 0], torch.arange(16.0))
    noise, same = x[:, 0].chunk(2)
    torch.testing.assert_close(noise, same - 3, rtol=0, atol=1e-4)
    z = noise / real.flatten()
    assert len(set(z.tolist())) == 48 and abs(float(z.std()) - 1) < 0.3
    assert step.number == 1


def test_every_step_and_seed_draws_its_own_noise(asked):
    for seed in (1, 2):
        list(
            train(config_of(steps=3), Noting(1, 1), real=normal(0, 1), seed=seed, fake=normal(1, 1))
        )
    assert len({tuple(call[1].tolist()) for call in asked}) == 6


def test_labels_are_those_of_the_samples():
    seen = []
    denoiser = players()[0]
    denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    next(train(denoiser=denoiser))
    streams = (SOURCE.batches(Shard(batch=16, seed=seed)) for seed in (1, 2))
    labels = torch.cat([next(stream)[1] for stream in streams]).repeat_interleave(2)
    assert len(seen) == 2 and all(torch.equal(label, labels) for label in seen)


def test_only_the_tuned_denoiser_gets_gradients():
    tuned, start = Gaussian(0, 1), Gaussian(1, 1)
    game = LikelihoodRatioGame(start, config_of(), Accelerator(cpu=True))
    real, fake, noise, sigma = (
        torch.randn(8, 1),
        torch.randn(8, 1),
        torch.randn(8, 2, 1),
        torch.ones(8, 2),
    )
    losses = game(tuned, real, fake, None, None, sigma, noise)
    assert [name for name, loss in losses.items() if loss.requires_grad] == ["total"]
    losses["total"].backward()
    assert all(p.grad is not None for p in tuned.parameters())
    assert all(p.grad is None for p in start.parameters())


def test_a_training_resumed_at_any_step_is_bit_equal_to_an_uninterrupted_one(tmp_path):
    config = config_of(
        learning_rate=Cosine(start=3e-3, end=1e-4), ema_half_life=30.0, ema_ramp=10.0
    )
    finals = []
    for stops in ((), (1, 3)):
        folder = tmp_path / str(len(stops))
        for stop in (*stops, None):
            accelerator = Accelerator(cpu=True)
            set_seed(1)
            with Run(folder, Settings(), accelerator) as run:
                for step in train(config, accelerator=accelerator, resume=run.resume):
                    if step.number == stop:
                        run.save(step)
                        break
        entries = [x for n in ("denoiser", "average") for x in step.state[n].state_dict().values()]
        entries += [torch.tensor(loss) for loss in step.losses.values()]
        assert step.number == 5
        finals.append([entry.clone() for entry in entries])
    assert all(map(torch.equal, *finals))


def test_a_finished_training_yields_its_last_step_without_losses():
    (step,) = train(resume=lambda _: 5)
    assert (step.number, dict(step.losses)) == (5, {})
    assert set(step.state) == {"denoiser", "average", "denoiser_optimizer"}


def test_a_batch_in_four_parts_gives_the_gradients_and_weights_of_one(double):
    whole, parts = (finetune_outcome(Accelerator(cpu=True), n) for n in (1, 4))
    assert set(parts) == set(whole)
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=0, atol=1e-6, msg=name)


def test_a_loss_that_is_not_finite_stops_before_anything_has_moved():
    denoiser = Gaussian(math.nan, 1)
    with pytest.raises(RunError, match="the denoiser's loss stopped being finite at step 1"):
        next(train(denoiser=denoiser, real=normal(0, 1), fake=normal(1, 1)))
    assert denoiser.log_std.item() == 0


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda: train(config_of(accumulation=3)), "batch of 16 cannot be cut evenly"),
        (lambda: config_of(levels=0), "levels must be a whole number in .* got 0"),
        (lambda: config_of(sharpness=0.0), "sharpness must be a number in .* got 0.0"),
        (lambda: config_of(fake_weight=-1.0), "fake_weight must be a number in .* got -1.0"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(misuse, sentence):
    with pytest.raises(InputError, match=sentence):
        misuse()
