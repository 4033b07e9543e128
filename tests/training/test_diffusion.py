import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from oracles import denoise
from torch import nn
from training.workers.two_diffusions import (
    KINDS,
    SOURCE,
    config_of,
    outcome,
    players,
    steps_of,
    term_of,
)

from hybridgen.data.points import MixturePoints
from hybridgen.data.source import Shard
from hybridgen.errors import InputError, RunError
from hybridgen.losses.adaptive import AdversarialWeight
from hybridgen.losses.denoising import denoising_loss, noised
from hybridgen.maths.mixtures import GaussianMixture
from hybridgen.networks.denoisers import PointDenoiser
from hybridgen.training.diffusion import DiffusionTraining
from hybridgen.training.hybrid_loss import Denoising, Hybrid
from hybridgen.training.run import Run
from hybridgen.training.settings import Cosine, LogNormal

TERMS = KINDS[1:]
GAUSSIAN = MixturePoints(
    mixture=GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1)), name="gaussian"
)


@dataclass(frozen=True)
class Settings:
    out: Path | None = None


@pytest.fixture
def train():
    """Train small players, an iterator of steps; the defaults are those of the worker."""

    def start(kind="plain", *, made=None, config=None, accelerator=None, term=None, **given):
        term = term_of(kind) if term is None else term
        return steps_of(
            config or config_of(),
            term,
            made or players(term),
            accelerator or Accelerator(cpu=True),
            **given,
        )

    return start


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_short_training_comes_near_the_exact_denoiser(train):
    two = GaussianMixture(
        torch.ones(2), torch.tensor([[-0.9, 0.0], [0.9, 0.4]]), torch.full((2,), 0.4)
    )
    source = MixturePoints(mixture=two.standardised(), name="two")
    torch.manual_seed(0)
    denoiser = PointDenoiser(width=64, depth=2, frequencies=4, min_wavelength=1.0)
    config = config_of(steps=400, batch=256, ema_half_life=5_000.0)
    *_, last = train(config=config, made=(denoiser, None), source=source)
    x0 = source.reference("held_out", 20_000)[0]
    rng = torch.Generator().manual_seed(0)
    sigma = config.noise(torch.randn(len(x0), generator=rng))
    x = noised(x0, sigma, torch.randn(x0.shape, generator=rng))

    def error(estimate):
        return float(denoising_loss(estimate, x0, sigma, 1.0).mean())

    best = error(denoise(source.mixture, x, sigma))
    with torch.no_grad():
        assert error(PointDenoiser(width=64)(x, sigma)) > 1.2 * best
        assert error(last.average(x, sigma)) < 1.03 * best


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_resumed_at_any_step_is_bit_equal_to_an_uninterrupted_one(tmp_path, train, kind):
    config = config_of(
        steps=5, learning_rate=Cosine(start=3e-3, end=1e-4), ema_half_life=30.0, ema_ramp=10.0
    )
    finals = []
    for stops in ((), (1, 3)):
        folder = tmp_path / str(len(stops))
        for stop in (*stops, None):
            accelerator = Accelerator(cpu=True)
            set_seed(1)
            with Run(folder, Settings(), accelerator) as run:
                for step in train(kind, config=config, accelerator=accelerator, resume=run.resume):
                    if step.number == stop:
                        run.save(step)
                        break
        names = ("denoiser", "average", *(("discriminator",) if kind != "plain" else ()))
        entries = [tensor for name in names for tensor in step.state[name].state_dict().values()]
        entries += [torch.tensor(loss) for loss in step.losses.values()]
        assert step.number == 5
        finals.append([entry.clone() for entry in entries])
    assert same(*finals)


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_training_yields_its_last_step_without_losses(train, kind):
    (step,) = train(kind, resume=lambda _: 4)
    assert (step.number, dict(step.losses)) == (4, {})
    both = {"discriminator", "discriminator_optimizer"} if kind != "plain" else set()
    assert set(step.state) == {"denoiser", "average", "denoiser_optimizer"} | both


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_in_four_parts_gives_the_gradients_and_weights_of_one(kind, double):
    whole, parts = (outcome(Accelerator(cpu=True), kind, accumulation=n) for n in (1, 4))
    assert set(parts) == set(whole)
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=0, atol=1e-6, msg=name)


class Spy(nn.Module):
    """Answers as a denoiser that knows nothing, and remembers what it was asked."""

    def __init__(self, classes=0):
        super().__init__()
        self.classes, self.asked = classes, []
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x, sigma, label=None):
        self.asked.append((x.detach(), sigma, label))
        return x / (1 + sigma[:, None] ** 2) + self.weight * x


def test_a_denoiser_is_asked_once_a_step_at_log_normal_levels_and_starts_at_loss_one(train):
    spy = Spy()
    config = config_of(
        steps=20, batch=512, noise=LogNormal(mean=0.5, std=0.8), learning_rate=Cosine(start=0.0)
    )
    losses = [s.losses["total"] for s in train(config=config, made=(spy, None), source=GAUSSIAN)]
    assert len(spy.asked) == 20
    x, sigma = (torch.cat([asked[i] for asked in spy.asked]) for i in (0, 1))
    assert float(sigma.log().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(sigma.log().std()) == pytest.approx(0.8, abs=0.03)
    assert float((x / (1 + sigma[:, None] ** 2).sqrt()).std()) == pytest.approx(1, abs=0.02)
    assert sum(losses) / 20 == pytest.approx(1, abs=0.03)


def test_seeds_and_steps_draw_their_own_noise(train):
    seen = []
    for seed in (1, 2):
        spy = Spy()
        list(train(config=config_of(steps=2), made=(spy, None), source=GAUSSIAN, seed=seed))
        seen += [tuple(sigma.tolist()) for _, sigma, _ in spy.asked]
    assert len(set(seen)) == 4


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_share_of_the_labels_is_dropped_and_the_rest_are_those_of_the_data(train, share):
    spy, given = Spy(SOURCE.classes), []
    config = config_of(steps=20, batch=256, label_drop=share)
    list(train(config=config, made=(spy, None)))
    for (_, label), _ in zip(SOURCE.batches(Shard(batch=256, seed=5)), range(20), strict=False):
        given.append(label)
    told, given = torch.cat([asked[2] for asked in spy.asked]), torch.cat(given)
    dropped = told == SOURCE.classes
    assert float(dropped.double().mean()) == pytest.approx(share, abs=0.03)
    assert torch.equal(told[~dropped], given[~dropped])


@pytest.mark.parametrize("kind", TERMS)
def test_the_term_asks_with_labels_and_data_spread_over_the_batch(train, kind):
    spy = Spy(SOURCE.classes)
    made = (spy, players(term_of(kind))[1])
    list(train(kind, config=config_of(steps=1, label_drop=0.9), made=made))
    _, given = next(SOURCE.batches(Shard(batch=16, seed=5)))
    *chain, (x, _, label) = spy.asked
    assert len(x) == 16 + 4
    assert torch.equal(label[16:], given[::4])
    assert all(torch.equal(told, given[::4]) for _, _, told in chain)
    assert len(chain) in ((1, 2) if kind == "chain" else (0,))


def test_the_length_of_the_chain_is_drawn_in_every_step(train):
    spy, term = Spy(SOURCE.classes), term_of("chain", calls=(2, 4))
    lengths, before = set(), 0
    for _ in train(term=term, config=config_of(steps=12), made=(spy, players(term)[1])):
        lengths.add(len(spy.asked) - before)
        before = len(spy.asked)
    assert lengths == {2, 4}


@pytest.mark.parametrize("kind", KINDS)
def test_data_without_labels_is_trained_on(train, kind):
    plain = replace(SOURCE, labelled=False)
    made = players(term_of(kind), classes=0)
    for step in train(kind, made=made, source=plain):
        assert all(math.isfinite(loss) for loss in step.losses.values())


def test_the_average_fades_with_the_images_of_the_whole_batch(train):
    made = players()
    steps = train(made=made, config=config_of(ema_half_life=16.0, ema_ramp=100.0))
    next(steps)
    first = weights(made[0])
    second = next(steps).average
    for a, b, mean in zip(first, made[0].parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(mean, (a + b.detach()) / 2)


class Spoilt:
    """The ring, with one batch that is not a number."""

    def batches(self, shard):
        for i, (x, label) in enumerate(SOURCE.batches(shard), start=shard.start):
            yield x * (math.nan if i == 2 else 1), label


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_stops_before_anything_has_moved(train, kind):
    made = players(term_of(kind))
    steps = train(kind, made=made, source=Spoilt())
    next(steps)
    average = next(steps).average
    moved = [player for player in (*made, average) if player is not None]
    before = [weights(player) for player in moved]
    with pytest.raises(RunError, match="the denoiser's loss stopped being finite at step 3"):
        next(steps)
    assert all(same(weights(player), old) for player, old in zip(moved, before, strict=True))


def test_a_discriminator_whose_loss_is_not_finite_is_named(train):
    term = term_of("clean")
    denoiser, adversarial = players(term)
    with torch.no_grad():
        adversarial.discriminator.head.linear.weight.fill_(1e30)
    before = weights(denoiser)
    with pytest.raises(
        RunError, match=r"discriminator's loss .* step 1: its part '(r1|adversarial)' is (inf|nan)"
    ):
        next(train(term=term, made=(denoiser, adversarial)))
    assert same(weights(denoiser), before)


def share_of(kind, made, term, weight=0.5):
    """The losses of one share of a batch, from fixed numbers."""
    denoiser, adversarial = made
    rng = torch.Generator().manual_seed(3)
    x0, label = next(SOURCE.batches(Shard(batch=8, seed=1)))
    x0 = x0.to(torch.get_default_dtype())

    def normal(*shape):
        return torch.randn(shape, generator=rng, dtype=x0.dtype)

    batch = (x0, label, normal(8, 2), normal(8), torch.zeros(8, dtype=torch.bool))
    denoising = Denoising(denoiser, LogNormal(), 1.0)
    if kind == "plain":
        return denoising(denoiser, *batch)
    strength = AdversarialWeight(weight, adaptive=term.adaptive)
    hybrid = Hybrid(denoising, term, adversarial, Accelerator(cpu=True), strength)
    uniform = torch.rand(3, generator=rng, dtype=x0.dtype)
    term_noise = (normal(3, 2), normal(3, 2), normal(3), uniform)
    return hybrid(denoiser, adversarial, 3, torch.Generator(), *batch, *term_noise)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("kind", TERMS)
def test_each_loss_gives_gradients_to_its_own_player_only(kind, adaptive):
    term = term_of(kind, adaptive=adaptive)
    made = denoiser, adversarial = players(term)
    losses = share_of(kind, made, term)
    assert {name for name, loss in losses.items() if loss.requires_grad} == {
        "total",
        "discriminator",
    }
    losses["total"].backward(retain_graph=True)
    assert all(p.grad is not None for p in denoiser.parameters())
    assert all(p.grad is None for p in adversarial.parameters())
    denoiser.zero_grad()
    losses["discriminator"].backward()
    assert all(p.grad is not None for p in adversarial.parameters())
    assert all(p.grad is None for p in denoiser.parameters())
    assert all(p.requires_grad for player in made for p in player.parameters())


@pytest.mark.parametrize("kind", TERMS)
def test_both_losses_show_the_discriminator_data_and_estimates_at_their_level_and_with_labels(kind):
    made, shown = players(term_of(kind)), []
    discriminator = made[1].discriminator
    discriminator.register_forward_pre_hook(lambda module, inputs: shown.append(inputs))
    share_of(kind, made, term_of(kind))
    x0, given = next(SOURCE.batches(Shard(batch=8, seed=1)))
    once, again = shown
    for x, y in zip(once, again, strict=True):
        torch.testing.assert_close(x, y)
    (real, fake), (level, same_level), (label, same_label) = (x.chunk(2) for x in again)
    assert torch.equal(label, same_label)
    assert torch.equal(level, same_level) and torch.equal(label, given[[0, 2, 5]])
    added = real - x0[[0, 2, 5]]
    assert bool((level > 0).all() if kind == "renoised" else (level == 0).all())
    assert bool(
        (added.abs() < 5 * level[:, None]).all() if kind == "renoised" else (added == 0).all()
    )
    assert again[0].requires_grad and not once[0].requires_grad and (fake - real).abs().min() > 1e-4


class Dropping(PointDenoiser):
    """With dropout before the last layer; remembers the batch and the mode of every call."""

    def __init__(self):
        super().__init__(width=16, depth=1, frequencies=2, classes=SOURCE.classes)
        self.out, self.calls = nn.Sequential(nn.Dropout(0.5), self.out), []

    @property
    def last_layer(self):
        return self.out[1].weight

    def forward(self, x, sigma, label=None):
        self.calls.append((len(x), self.out[0].training))
        return super().forward(x, sigma, label)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("kind", TERMS)
def test_the_discriminator_is_shown_estimates_without_dropout(kind, adaptive):
    """As a sampler makes them; what the denoising loss sees has it."""
    torch.manual_seed(0)
    denoiser, term = Dropping(), term_of(kind, adaptive=adaptive)
    adversarial, shown = players(term)[1], []
    adversarial.discriminator.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    losses = [share_of(kind, (denoiser, adversarial), term) for _ in range(2)]
    few = [(3, False)] * (2 if kind == "chain" else 0)
    assert denoiser.calls == [*few, (3, False), (8, True)] * 2
    assert denoiser.out[0].training
    assert torch.equal(
        shown[0], shown[len(shown) // 2]
    )  # the same estimates, though dropout was drawn anew
    assert float(losses[0]["denoising"]) != float(losses[1]["denoising"])
    losses[1]["total"].backward()
    assert all(p.grad is not None for p in denoiser.parameters())


@pytest.mark.parametrize("kind", TERMS)
def test_the_denoisers_loss_is_the_denoising_loss_and_the_weighted_game(kind, double):
    made = denoiser, _ = players(term_of(kind))

    def gradient(loss):
        return torch.autograd.grad(loss, denoiser.last_layer, retain_graph=True)[0]

    alone = share_of("plain", made, None)["total"]
    found = share_of(kind, made, term_of(kind))
    torch.testing.assert_close(found["denoising"], alone.detach())
    torch.testing.assert_close(found["total"].detach(), alone.detach() + 0.5 * found["generator"])
    torch.testing.assert_close(found["weight"], torch.tensor(0.5))
    pull, push = gradient(alone), (gradient(found["total"]) - gradient(alone)) / 0.5
    assert float(push.norm()) > 1e-4
    weighed = share_of(kind, made, term_of(kind, adaptive=True))
    expected = 0.5 * pull.norm() / (push.norm() + 1e-4)
    torch.testing.assert_close(weighed["weight"], expected, rtol=1e-6, atol=0)
    assert not weighed["weight"].requires_grad
    torch.testing.assert_close(
        gradient(weighed["total"]), pull + expected * push, rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("kind", TERMS)
def test_an_adaptively_weighted_game_can_be_scaled_and_nothing_changes(train, kind, double):
    term, finals = term_of(kind, adaptive=True), []
    for scale in (1e3, 1e6):
        made = denoiser, adversarial = players(term)
        lent = adversarial.objective.generator_loss
        adversarial.objective = replace(
            adversarial.objective,
            generator_loss=lambda logits, scale=scale, lent=lent: scale * lent(logits),
        )
        *_, last = train(term=term, made=made)
        assert last.losses["weight"] < 1 < last.losses["generator"]
        finals.append(weights(denoiser))
    for a, b in zip(*finals, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", TERMS)
def test_during_the_warm_up_the_denoiser_trains_as_without_a_term(train, kind, double):
    """Up to rounding, for it is asked more in one call."""
    finals, term = [], term_of(kind, warm_up=3)
    discriminator = weights(players(term)[1])
    for made, given in ((players(), "plain"), (players(term), kind)):
        *_, last = train(
            given, term=None if given == "plain" else term, made=made, config=config_of(steps=3)
        )
        finals.append(weights(made[0]))
        assert "generator" not in last.losses and "weight" not in last.losses
    for a, b in zip(*finals, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert not same(discriminator, weights(made[1]))


def test_the_weight_rises_after_the_warm_up_and_schedules_reach_both_players(train):
    term = term_of(
        "renoised",
        warm_up=2,
        ramp=2,
        learning_rate=Cosine(start=2e-2, end=1e-3),
        r1=Cosine(start=0.4, end=0.1),
        r2=Cosine(start=0.0, end=0.3),
    )
    made = players(term)
    config = config_of(steps=5, learning_rate=Cosine(start=1e-2, end=1e-4))
    for step in train(term=term, made=made, config=config):
        progress, losses = (step.number - 1) / 5, step.losses
        weight = {3: 0.25, 4: 0.5, 5: 0.5}.get(step.number)
        assert losses.get("weight") == weight
        game = weight * losses["generator"] if weight else 0.0
        assert losses["total"] == pytest.approx(losses["denoising"] + game, rel=1e-5)
        r1, r2 = term.r1(progress), term.r2(progress)
        assert (made[1].r1, made[1].r2) == (r1, r2)
        whole = losses["adversarial"] + r1 / 2 * losses["r1"]
        whole += r2 / 2 * losses["r2"] if r2 > 0 else 0.0
        assert losses["discriminator"] == pytest.approx(whole, rel=1e-5)
        for name, rate, momentum in (
            ("denoiser", config.learning_rate(progress), 0.9),
            ("discriminator", term.learning_rate(progress), 0.0),
        ):
            (group,) = step.state[f"{name}_optimizer"].param_groups
            assert (group["lr"], group["betas"]) == (rate, (momentum, 0.99))


@pytest.mark.parametrize("kind", KINDS)
def test_both_players_are_moved_in_every_step(train, kind):
    made = players(term_of(kind))
    moved = [player for player in made if player is not None]
    before = [weights(player) for player in moved]
    for _ in train(kind, made=made):
        after = [weights(player) for player in moved]
        for old, new in zip(before, after, strict=True):
            assert not any(torch.equal(a, b) for a, b in zip(old, new, strict=True) if a.ndim > 1)
        before = after


def test_a_clipped_gradient_is_no_longer_than_asked(train):
    lengths = []
    for clip in (None, 0.01):
        made = players()
        next(train(made=made, config=config_of(clip=clip)))
        lengths.append(float(torch.cat([p.grad.flatten() for p in made[0].parameters()]).norm()))
    assert lengths[0] > 0.1
    assert lengths[1] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_the_networks_compute_in_bf16_and_everything_stays_finite(train, kind, adaptive):
    term = None if kind == "plain" else term_of(kind, adaptive=adaptive)
    made, kinds = players(term), {"denoiser": set(), "discriminator": set()}
    for name, player in zip(kinds, made, strict=True):
        for module in player.modules() if player is not None else ():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(
                    lambda m, i, out, name=name: kinds[name].add(out.dtype)
                )
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    for step in train(kind, term=term, made=made, accelerator=accelerator):
        assert all(math.isfinite(loss) for loss in step.losses.values())
    assert kinds["denoiser"] == {torch.bfloat16}
    # Penalised in float32, lent to the denoiser in bf16.
    assert kinds["discriminator"] == (set() if term is None else {torch.float32, torch.bfloat16})
    for player in (*made, step.average):
        for p in player.parameters() if player is not None else ():
            assert p.dtype == torch.float32 and bool(p.isfinite().all())


def test_half_of_a_term_is_refused(train):
    denoiser, adversarial = players(term_of("clean"))
    with pytest.raises(ValueError, match="needs both its discriminator and its settings, got one"):
        next(train(made=(denoiser, adversarial)))
    with pytest.raises(ValueError, match="needs both its discriminator and its settings, got one"):
        next(train("clean", made=(denoiser, None)))
    nowhere = replace(term_of("clean"), source=None)
    with pytest.raises(ValueError, match="a term needs a source of fakes"):
        next(train(term=nowhere, made=(denoiser, adversarial)))


def test_what_theory_speaks_against_is_refused_before_the_first_step(train):
    high = term_of("clean", highest=0.3)
    with pytest.raises(InputError, match=r"up to 0.3 .* above 0.25 even a perfect denoiser"):
        next(train(term=high))
    next(train(term=replace(high, force=True)))


def test_a_batch_that_cannot_be_cut_is_refused(train):
    with pytest.raises(InputError, match="batch of 16 cannot be cut evenly"):
        next(train(config=config_of(accumulation=3)))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": 0}, "steps must be a whole number in .* got 0"),
        ({"batch": -1}, "batch must be a whole number in .* got -1"),
        ({"accumulation": 0}, "accumulation must be a whole number in .* got 0"),
        ({"ema_half_life": 0.0}, "ema_half_life must be a number in .* got 0.0"),
        ({"ema_ramp": math.nan}, "ema_ramp must be a number in .* got nan"),
        ({"label_drop": 1.0}, r"label_drop must be a number in \[0, 1\), got 1.0"),
        ({"label_drop": -0.1}, r"label_drop must be a number in \[0, 1\), got -0.1"),
        ({"clip": 0.0}, "clip must be a number in .* got 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        DiffusionTraining(**settings)
