"""How each player of a GAN moves, what of the past its discriminator sees, and in what packs."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from training.workers.two_processes import knobs_players, knobs_training

from hybridgen import AdversarialLoss
from hybridgen.data.augment import DiffusionNoise, Replay, packed
from hybridgen.data.points import MixturePoints
from hybridgen.data.settings import DiffusionNoiseSettings
from hybridgen.errors import InputError
from hybridgen.maths.mixtures import ring
from hybridgen.maths.rng import rng_for
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
from hybridgen.training.run import Run
from hybridgen.training.settings import AdversarialSettings, Cosine, GanTraining, NetworkTraining
from hybridgen.training.setup import build_adversarial

POINTS = MixturePoints(mixture=ring().standardised(), name="ring")


@dataclass(frozen=True)
class Settings:
    out: Path | None = None


class Watched:
    """A source that remembers which batches were taken."""

    def __init__(self):
        self.taken = []

    def batches(self, shard):
        for number, batch in enumerate(POINTS.batches(shard), start=shard.start):
            self.taken.append(number)
            yield batch


@pytest.fixture
def train(train):
    """Without labels."""
    return lambda *arguments, source=POINTS, **more: train(*arguments, source=source, **more)


def unlabelled(discriminator=None, **game):
    torch.manual_seed(0)
    generator = MlpGenerator(latent=3, width=16, depth=2)
    return generator, AdversarialLoss(
        discriminator or MlpDiscriminator(width=16, depth=2), r1=0.3, r2=0.2, **game
    )


def test_each_network_moves_as_often_as_asked_on_batches_of_its_own_and_goes_on_so(train, training):
    made, source = unlabelled(), Watched()
    config = training(
        steps=3, discriminator=NetworkTraining(moves=3), generator=NetworkTraining(moves=2)
    )
    steps = list(train(config, made, source=source))
    assert source.taken == list(range(15))
    for name, moves in (("discriminator", 9), ("generator", 6)):
        states = steps[-1].state[f"{name}_optimizer"].state.values()
        assert {int(state["step"]) for state in states} == {moves}
    resumed = Watched()
    list(train(config, unlabelled(), source=resumed, resume=lambda _: 2))
    assert resumed.taken == list(range(10, 15))


def test_the_average_counts_the_images_of_every_move_of_the_generator(train, training):
    half = {"ema_half_life": 16.0, "ema_ramp": 100.0, "batch": 16}
    made, moved = unlabelled(), []
    hook = register_optimizer_step_post_hook(
        lambda *_: moved.append([p.detach().clone() for p in made[0].parameters()])
    )
    try:
        (step,) = train(training(steps=1, generator=NetworkTraining(moves=3), **half), made)
    finally:
        hook.remove()
    _, first, second, third = moved
    for a, b, c, mean in zip(first, second, third, step.average.parameters(), strict=True):
        torch.testing.assert_close(mean, a / 4 + b / 4 + c / 2)


def test_rates_betas_and_optimisers_are_of_one_network_where_it_differs(train, training):
    slow = NetworkTraining(optimizer="sgd", rate=0.5, beta1=0.9)
    fast = NetworkTraining(beta1=0.5, beta2=0.8)
    *_, step = train(training(steps=2, discriminator=slow, generator=fast), unlabelled())
    rate = training(steps=2).learning_rate(0.5)
    (disc,) = step.state["discriminator_optimizer"].param_groups
    (gen,) = step.state["generator_optimizer"].param_groups
    assert (disc["lr"], disc["momentum"]) == (0.5 * rate, 0.9)
    assert (gen["lr"], gen["betas"]) == (rate, (0.5, 0.8))
    assert isinstance(step.state["discriminator_optimizer"], torch.optim.SGD)


def test_sgd_moves_by_rate_times_gradient(train, training):
    made = unlabelled()
    before = [p.detach().clone() for p in made[1].parameters()]
    config = training(steps=1, discriminator=NetworkTraining(optimizer="sgd", rate=2.0))
    list(train(config, made))
    for old, p in zip(before, made[1].parameters(), strict=True):
        torch.testing.assert_close(p.detach(), old - 2 * config.learning_rate(0) * p.grad)


def test_lazy_penalties_weigh_in_one_move_what_they_weigh_in_all(train, training):
    config = training(steps=6, penalty_every=3, r1=Cosine(start=0.4), r2=Cosine(start=0.2))
    seen = []
    for step in train(config, unlabelled()):
        losses, weighted = step.losses, step.number % 3 == 0
        # Of the last move that had any, so that a log of every tenth step has them too.
        assert ("r1" in losses) == ("r2" in losses) == (step.number >= 3)
        more = 3 * (0.4 * losses["r1"] + 0.2 * losses["r2"]) / 2 if weighted else 0
        assert losses["discriminator"] == pytest.approx(losses["adversarial"] + more, rel=1e-5)
        seen.append(weighted)
    assert seen == [False, False, True] * 2


def test_lazy_penalties_count_the_moves_of_the_discriminator(train, training):
    twice = training(steps=4, penalty_every=4, discriminator=NetworkTraining(moves=2))
    list(train(twice, unlabelled(slopes := Slopes())))
    assert slopes.penalised == [False, False, False, True] * 2


class Slopes(nn.Module):
    """A discriminator that remembers whether its own loss asked for a slope."""

    def __init__(self):
        super().__init__()
        self.inner, self.penalised = MlpDiscriminator(width=8, depth=1), []

    def forward(self, x, sigma, label):
        if next(self.inner.parameters()).requires_grad:
            self.penalised.append(x.requires_grad)
        return self.inner(x, sigma, label)


def test_a_replay_fills_then_replaces_as_many_as_it_lends():
    replay, rng = Replay(0.25, 20), rng_for("replay")
    assert (replay.draws(8, rng) == -1).all()
    fake = torch.zeros(8, 2)
    assert replay.mixed(fake, replay.draws(8, rng)) is fake
    sizes = []
    for number in range(4):
        replay.add(torch.full((8, 2), float(number)), rng)
        sizes.append(len(replay.samples))
    assert sizes == [8, 16, 20, 20]
    counts = replay.samples[:, 0].long().bincount()
    assert counts[3] == 2 and counts.sum() == 20
    # Of many draws a share is past, and every past sample is drawn alike.
    index = replay.draws(100_000, rng)
    assert (index >= 0).double().mean().item() == pytest.approx(0.25, abs=0.01)
    often = index[index >= 0].bincount(minlength=20) / (index >= 0).sum()
    torch.testing.assert_close(often, torch.full((20,), 0.05), rtol=0, atol=0.006)
    fresh = torch.full((3, 2), 9.0)
    mixed = replay.mixed(fresh, torch.tensor([-1, 19, 0]))
    expected = torch.stack([fresh[0], replay.samples[19], replay.samples[0]])
    assert torch.equal(mixed, expected)


def test_what_is_replayed_was_made_before(train, training):
    """The discriminator's fakes are of this step's generator or of an earlier one's."""
    generator, adversarial = unlabelled()
    made, seen = [], []
    generator.register_forward_hook(lambda module, inputs, output: made.append(output.detach()))
    adversarial.register_forward_pre_hook(
        lambda module, inputs, batch: seen.append(batch["fake"]), with_kwargs=True
    )
    list(train(training(steps=20, replay=0.5, replay_size=40), (generator, adversarial)))
    ages = []
    for number, fake in enumerate(seen):
        for row in fake:
            (age,) = {number - n for n in range(number + 1) if (made[2 * n] == row).all(1).any()}
            ages.append(age)
    assert min(ages) == 0 and max(ages) > 3
    assert sum(age > 0 for age in ages) / len(ages) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("channels", [(), (4, 4)])
def test_a_pack_holds_neighbours_on_its_first_axis(channels):
    x = torch.randn(6, 2, *channels)
    y = packed(x, 3)
    assert y.shape == (2, 6, *channels)
    assert torch.equal(y[1], torch.cat([x[3], x[4], x[5]]))


def test_a_packed_discriminator_sees_samples_together(train, training):
    disc, seen = MlpDiscriminator(dimension=4, width=16, depth=2), []
    generator, adversarial = unlabelled(disc)
    disc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    *_, step = train(training(steps=3, batch=16, pack=2), (generator, adversarial))
    assert set(seen) == {(16, 4)}  # eight packs of real samples and eight of generated ones
    assert step.average(torch.zeros(1, 3)).shape == (1, 2)


def test_instance_noise_fades_as_its_schedule_says(train, training):
    disc, calls = MlpDiscriminator(width=16, depth=2), []
    disc.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].detach().clone()))
    for noise in (Cosine(start=0.0), Cosine(start=0.8, end=0.0, until=2 / 3)):
        config = training(steps=3, batch=2_000, instance_noise=noise)
        list(train(config, unlabelled(disc)))  # a new generator, the same each time
    # A step has two calls; in the first, of the discriminator's half, real samples come before
    # generated ones, and they are the same in both trainings.
    first = [x[:2_000] for x in calls[::2]]
    assert len(first) == 6
    added = [float((b - a).std()) for a, b in zip(first[:3], first[3:], strict=True)]
    assert added == pytest.approx([0.8, 0.4, 0.0], rel=0.05, abs=1e-9)
    # While the generator has not moved, its samples are the same too, in both halves.
    for clean, noisy in zip(calls[:2], calls[6:8], strict=True):
        for a, b in zip(clean.chunk(2), noisy.chunk(2), strict=True):
            assert float((b - a).std()) == pytest.approx(0.8, rel=0.05)


def test_instance_noise_is_not_mixed_with_noise_of_a_level_that_is_told(train, training):
    noise = DiffusionNoise(DiffusionNoiseSettings(highest=1.0))
    players = unlabelled(MlpDiscriminator(width=16, depth=2, noise_conditional=True))
    with pytest.raises(InputError, match="leave one of them out"):
        train(training(instance_noise=Cosine(start=0.1)), players, noise=noise)


def test_what_does_not_go_together_is_refused_at_once(train, training, players):
    for changes in ({"pack": 2}, {"replay": 0.5}):
        with pytest.raises(InputError, match=r"label of each sample.* or train without labels"):
            train(training(**changes), players())
    with pytest.raises(InputError, match=r"packs of 3 in each of 2 part.*a multiple of 6"):
        train(training(batch=16, accumulation=2, pack=3), unlabelled())
    with pytest.raises(InputError, match=r"replay_size must hold a pack of 8 samples, got 4"):
        GanTraining(pack=8, replay_size=4)
    with pytest.raises(InputError, match="has no labels to smooth"):
        AdversarialSettings(smoothing=0.1)
    with pytest.raises(InputError, match=r"flips must be a number in \[0, 0.5\), got 0.5"):
        AdversarialSettings(flips=0.5)


def test_smoothing_and_flips_reach_the_objective():
    settings = AdversarialSettings(objective="least_squares", smoothing=0.1, flips=0.2)
    game = build_adversarial(MlpDiscriminator(), settings).objective
    on_real, on_fake = game.discriminator(torch.tensor([3.0]), torch.tensor([2.0]))
    assert on_real.item() == pytest.approx(0.8 * (0.9 * 4 + 0.1 * 9) + 0.2 * 9)
    assert on_fake.item() == pytest.approx(0.8 * 4 + 0.2 * (0.9 * 1 + 0.1 * 4))


def test_a_training_with_all_of_it_is_bit_equal_when_resumed(tmp_path):
    finals = []
    for stops in ((), (1, 3)):
        folder = tmp_path / str(len(stops))
        for stop in (*stops, None):
            accelerator, made = Accelerator(cpu=True), knobs_players()
            with Run(folder, Settings(), accelerator) as run:
                for step in knobs_training(accelerator, made, steps=5, resume=run.resume):
                    if step.number == stop:
                        run.save(step)
                        break
        tensors = [*step.average.state_dict().values(), *made[1].state_dict().values()]
        finals.append([*tensors, step.state["replay"].samples])
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))
