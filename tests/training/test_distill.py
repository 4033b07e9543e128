"""Training a student: what it is shown, who pulls at it and who moves when."""

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from training.workers.two_diffusions import SOURCE
from training.workers.two_students import (
    LEVELS,
    SIGNALS,
    config_of,
    pairs,
    players,
    regression_of,
    steps_of,
    student_outcome,
    term_of,
)

from hybridgen.data.source import Shard
from hybridgen.errors import InputError, RunError
from hybridgen.losses.adaptive import AdversarialWeight
from hybridgen.losses.denoising import denoising_loss, noised
from hybridgen.losses.distillation import divergence_weight, matching_direction
from hybridgen.maths.noise import karras_sigmas
from hybridgen.maths.rng import normal_share, rng_from
from hybridgen.sampling.build import build_sampler
from hybridgen.sampling.settings import StudentSettings
from hybridgen.training.distill import evenly
from hybridgen.training.distill_loss import Distillation, Draws, Pairs
from hybridgen.training.run import Run
from hybridgen.training.settings import Cosine, DistillTraining, LogUniform
from hybridgen.training.setup import adversarial_weight
from hybridgen.training.terms import Matching

STILL = Cosine(start=0.0)
ONE_BY_ONE = pytest.mark.parametrize("signal", SIGNALS)


@dataclass(frozen=True)
class Settings:
    out: Path | None = None


@pytest.fixture
def train():
    """Train small players, an iterator of steps; the defaults are those of the worker."""
    return lambda **given: steps_of(
        given.pop("accelerator", None) or Accelerator(cpu=True), **given
    )


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def data(count, batch=16):
    """The first batches."""
    stream = SOURCE.batches(Shard(batch=batch, seed=5))
    return [next(stream) for _ in range(count)]


def test_a_training_resumed_at_any_step_is_bit_equal_to_an_uninterrupted_one(tmp_path, train):
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
                for step in train(config=config, accelerator=accelerator, resume=run.resume):
                    if step.number == stop:
                        run.save(step)
                        break
        names = ("student", "average", "follower", "discriminator")
        entries = [tensor for name in names for tensor in step.state[name].state_dict().values()]
        entries += [torch.tensor(loss) for loss in step.losses.values()]
        assert step.number == 5
        finals.append([entry.clone() for entry in entries])
    assert same(*finals)


def test_a_finished_training_yields_its_last_step_without_losses(train):
    for signals in (SIGNALS, SIGNALS[:1], SIGNALS[1:2], SIGNALS[2:]):
        (step,) = train(signals=signals, resume=lambda _: 4)
        assert (step.number, dict(step.losses)) == (4, {})
        names = {"adversarial": "discriminator", "matching": "follower"}
        moved = ["student", *(names[signal] for signal in signals if signal in names)]
        expected = {*moved, *(f"{name}_optimizer" for name in moved), "average"}
        assert set(step.state) == expected


def test_a_batch_in_four_parts_gives_the_gradients_and_weights_of_one(double):
    whole, cut = (student_outcome(Accelerator(cpu=True), accumulation=n) for n in (1, 4))
    assert set(cut) == set(whole)
    for name, expected in whole.items():
        torch.testing.assert_close(cut[name], expected, rtol=0, atol=1e-6, msg=name)


def test_a_student_begins_as_the_teacher_which_never_moves(train):
    made = student, teacher, _ = players()
    before = weights(teacher)
    for network in (student, teacher):
        network.train()  # which a denoiser that is sampled is not
    *_, last = train(made=made, config=config_of(steps=2, learning_rate=STILL))
    for network in (student, teacher, last.state["follower"]):
        assert not any(module.training for module in network.modules())
    assert same(weights(student), before) and same(weights(last.average), before)
    assert not same(weights(last.state["follower"]), before)
    still = Matching(learning_rate=STILL)
    *_, last = train(made=players(), matching=still, config=config_of(steps=2))
    assert same(weights(last.state["follower"]), before)
    assert not same(weights(last.state["student"]), before)
    assert same(weights(teacher), before)
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())


class Spy(nn.Module):
    """Answers as a denoiser that knows nothing, and remembers what it was asked."""

    def __init__(self, classes=SOURCE.classes):
        super().__init__()
        self.classes, self.asked = classes, []
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x, sigma, label=None):
        self.asked.append((x.detach(), sigma, label, torch.is_grad_enabled()))
        return self.answer(x, sigma) + self.weight * x

    @staticmethod
    def answer(x, sigma):
        return x / (1 + sigma[:, None] ** 2)


def round_of(made, *, place=0, moves=True, levels=LEVELS, paired=None, regression=3.0, **changes):
    """The losses of one round on 8 samples from fixed numbers, and these numbers."""
    student, teacher, game = made
    matching, term = changes.pop("matching", Matching()), changes.pop("term", term_of(clean=0.25))
    x, label = data(1, batch=8)[0]
    x = x.to(torch.get_default_dtype())
    setup = SimpleNamespace(config=config_of(batch=8), normal=normal_share, share=lambda x: x)
    draws = Draws.of(setup, len(levels), x, torch.Generator().manual_seed(3))
    parts = {
        "student": student,
        "teacher": teacher,
        "follower": changes.pop("follower", Follower(teacher)),
        "adversarial": game,
        "levels": levels,
        "data_std": 1.0,
        "config": config_of(),
        "term": term,
        "matching": matching,
        "strength": AdversarialWeight(0.5, adaptive=term.adaptive),
        "accelerator": Accelerator(cpu=True),
    }
    losses_of = Distillation(**{**parts, **changes})
    prepared = {"student": student, "follower": losses_of.follower, "discriminator": game}
    pairs = (None, None) if paired is None else (x + levels[place], torch.ones_like(x))
    fixed = place, torch.Generator(), moves, regression
    losses = losses_of(prepared, *fixed, x, label, *pairs, paired, *draws)
    return losses, draws, (x, label)


class Follower(nn.Module):
    """Of another mind than the teacher."""

    def __init__(self, teacher):
        super().__init__()
        self.network = copy.deepcopy(teacher)
        self.shift = nn.Parameter(torch.full((), 0.3))

    def forward(self, x, sigma, label=None):
        return self.network(x, sigma, label) + self.shift * sigma[:, None]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_path_leads_down_the_levels_by_the_students_own_estimates(place):
    spy, levels = Spy(), (20.0, 5.0, 1.0)
    _, draws, (_, label) = round_of((spy, *players()[1:]), place=place, levels=levels)
    assert len(spy.asked) == place + 1
    assert [grad for *_, grad in spy.asked] == [False] * place + [True]
    expected = 20 * draws.path[:, 0]
    for i, (x, sigma, told, _) in enumerate(spy.asked):
        torch.testing.assert_close(x, expected)
        assert bool((sigma == levels[i]).all()) and torch.equal(told, label)
        if i < 2:
            expected = spy.answer(x, sigma) + levels[i + 1] * draws.path[:, i + 1]


@pytest.mark.parametrize("levels", [(20.0,), (20.0, 5.0, 1.0)])
def test_a_level_is_drawn_in_every_round_and_each_call_is_one_of_the_students(train, levels):
    spy, before, lengths = Spy(), 0, set()
    made = (spy, *players()[1:])
    for _ in train(made=made, levels=levels, config=config_of(steps=16, rounds=1)):
        asked = [float(sigma[0]) for _, sigma, *_ in spy.asked[before:]]
        assert asked == list(levels[: len(asked)])
        lengths.add(len(asked))
        before = len(spy.asked)
    assert lengths == set(range(1, len(levels) + 1))


def test_each_loss_gives_gradients_to_its_own_player_only():
    for adaptive in (False, True):
        term = term_of(adaptive=adaptive)
        student, teacher, game = made = players(term)
        follower, paired = Follower(teacher), torch.ones(8)
        losses, *_ = round_of(made, term=term, follower=follower, paired=paired)
        owners = {"total": student, "follower": follower, "discriminator": game}
        assert {name for name, loss in losses.items() if loss.requires_grad} == set(owners)
        for name, owner in owners.items():
            losses[name].backward(retain_graph=True)
            for player in (*owners.values(), teacher):
                has = [p.grad is not None for p in player.parameters()]
                assert all(has) if player is owner else not any(has), (name, adaptive)
            owner.zero_grad()
        assert all(p.requires_grad for player in owners.values() for p in player.parameters())


def test_the_students_loss_is_the_weighted_sum_of_what_pulls_at_it(double):
    losses, *_ = round_of(players(), paired=torch.ones(8), matching=Matching(weight=0.7))
    assert min(losses[name] for name in ("matching", "regression", "generator")) > 1e-4
    total = 0.7 * losses["matching"] + 3 * losses["regression"] + 0.5 * losses["generator"]
    torch.testing.assert_close(losses["total"].detach(), total)


def test_an_adaptive_weight_makes_the_game_pull_as_hard_as_all_else(double):
    term = term_of(adaptive=True)
    made = student, *_ = players(term)

    def gradient(losses):
        return torch.autograd.grad(losses["total"], student.last_layer, retain_graph=True)[0]

    given = {"paired": torch.ones(8), "term": term}
    weighed = round_of(made, **given)[0]
    alone = gradient(round_of(made, **given, strength=AdversarialWeight(0.0))[0])
    plain = gradient(round_of(made, **given, strength=AdversarialWeight(1.0, adaptive=False))[0])
    expected = 0.5 * alone.norm() / ((plain - alone).norm() + 1e-4)
    torch.testing.assert_close(weighed["weight"], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient(weighed), alone + expected * (plain - alone))


def test_the_follower_learns_the_students_samples_and_the_pull_is_where_it_differs(double):
    student, teacher, _ = players()
    follower, matching = Follower(teacher), Matching(weight=0.7)
    given = {"follower": follower, "matching": matching, "place": 1}
    losses, draws, (_, label) = round_of((student, teacher, None), adversarial=None, **given)
    x = LEVELS[0] * draws.path[:, 0]
    with torch.no_grad():
        x = student(x, torch.full((8,), LEVELS[0]), label) + LEVELS[1] * draws.path[:, 1]
    sample = student(x, torch.full((8,), LEVELS[1]), label)
    level = config_of().noise(draws.learnt_level)
    answer = follower(noised(sample.detach(), level, draws.learnt), level, label)
    error = denoising_loss(answer, sample.detach(), level, 1.0).mean()
    torch.testing.assert_close(losses["follower"], error)
    level = matching.noise(draws.matched_level)
    y = noised(sample.detach(), level, draws.matched)
    direction = matching_direction(sample, follower(y, level, label), teacher(y, level, label))
    parameters = list(student.parameters())
    # d total / d w = weight * mean over the batch of direction / coordinates * d sample / d w.
    expected = torch.autograd.grad((0.7 * sample * direction / 2 / 8).sum(), parameters)
    found = torch.autograd.grad(losses["total"], parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert float(direction.abs().mean()) > 1e-2


@pytest.mark.parametrize("divergence", ["forward_kl", "jensen_shannon"])
def test_another_divergence_weighs_samples_by_the_discriminators_ratio(divergence):
    student, teacher, game = made = players()
    sample, found = torch.randn(8, 2), []
    for name in ("reverse_kl", divergence):
        given = {"matching": Matching(divergence=name), "follower": Follower(teacher)}
        _, draws, (_, label) = round_of(made, **given)
        losses_of = Distillation(
            *(student, teacher, given["follower"], game, LEVELS, 1.0, config_of(), term_of()),
            *(given["matching"], AdversarialWeight(0.5), Accelerator(cpu=True)),
        )
        found.append(losses_of.direction(sample, label, draws))
    level = Matching().noise(draws.matched_level)
    logit = game.discriminator(noised(sample, level, draws.matched), level, label)
    weight = divergence_weight(logit, divergence)
    torch.testing.assert_close(found[1], found[0] * weight[:, None])
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("moves", [True, False])
def test_the_discriminator_compares_data_and_samples_noised_alike(moves):
    made, shown = players(), []
    hook = lambda _, inputs: shown.append(inputs)  # noqa: E731
    made[2].discriminator.register_forward_pre_hook(hook)
    losses, draws, (x, label) = round_of(made, moves=moves)
    assert len(shown) == 1 + moves
    assert ("total" in losses) == ("generator" in losses) == ("matching" in losses) == moves
    term = term_of(clean=0.25)
    expected = torch.where(draws.clean < 0.25, 0.0, term.noise(draws.game_level))
    for inputs in shown:
        (real, fake), (level, same_level), (told, same_told) = (x.chunk(2) for x in inputs)
        assert torch.equal(level, expected) and torch.equal(level, same_level)
        assert torch.equal(told, label) and torch.equal(told, same_told)
        torch.testing.assert_close(real, noised(x, level, draws.real))
        first = LEVELS[0] * draws.path[:, 0]
        sample = made[0](first, torch.full((8,), LEVELS[0]), label)
        torch.testing.assert_close(fake, noised(sample, level, draws.fake))


def test_levels_of_the_game_are_clean_for_a_share_and_inside_its_range_else(train):
    made, levels = players(), []
    hook = lambda _, inputs: levels.append(inputs[1])  # noqa: E731
    made[2].discriminator.register_forward_pre_hook(hook)
    term = term_of(clean=0.3, noise=LogUniform(low=0.05, high=2.0), warm_up=99)
    config = config_of(steps=8, batch=512, learning_rate=STILL)
    list(train(made=made, term=term, config=config, signals=SIGNALS[:1]))
    level = torch.cat([each.chunk(2)[0] for each in levels])
    noisy = level[level > 0]
    assert float((level == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert 0.05 <= float(noisy.min()) < 0.06 and 1.7 < float(noisy.max()) <= 2.0
    middle = (math.log(0.05) + math.log(2)) / 2
    assert float(noisy.log().mean()) == pytest.approx(middle, abs=0.05)


NUMBERED = torch.arange(80.0).reshape(2, 40, 1).expand(2, 40, 2)


@pytest.mark.parametrize(("classes", "share"), [(8, 0.5), (0, 0.25), (8, 0.01)])
def test_pairs_of_a_level_have_the_labels_of_the_batch_and_take_the_paths_place_there(
    train, classes, share
):
    """Input and sample of pair i of the second level are 40 + i and twice that: what the student is
    asked says which pair it is, and a path's own input is no whole number."""
    spy = Spy(classes)
    made = (spy, *players(classes=classes)[1:])
    options = {"signals": SIGNALS[::2], "regression": regression_of(share=share)}
    options |= {"drawn": lambda: Pairs(NUMBERED, 2 * NUMBERED)}
    config = config_of(steps=12, batch=64, rounds=1, learning_rate=STILL)
    source, before, rows = replace(SOURCE, labelled=classes > 0), 0, [[], []]
    for step in train(made=made, source=source, config=config, **options):
        asked, before = spy.asked[before:], len(spy.asked)
        place, (x, sigma, label, _) = len(asked) - 1, asked[-1]
        assert set(sigma.tolist()) == {LEVELS[place]}
        paired = evenly(64, share)
        number = x[paired][:, 0]
        assert torch.equal(number, number.round()) and torch.equal(number, x[paired][:, 1])
        assert not bool((x[~paired] == x[~paired].round()).any())
        if classes:
            assert torch.equal(number.long() % classes, label[paired])
        rows[place] += number.long().tolist()
        error = float((spy.answer(x, sigma)[paired] - 2 * x[paired]).square().mean())
        assert step.losses["regression"] == pytest.approx(error, rel=1e-4)
    for level, of_level in enumerate(rows):
        assert {row // 40 for row in of_level} == {level}
        assert len(set(of_level)) > (30 if share > 0.1 else 2)


@pytest.mark.parametrize("alone", [0, 99])
def test_where_nothing_else_pulls_all_inputs_are_those_of_pairs(train, alone):
    spy = Spy()
    signals = SIGNALS if alone else SIGNALS[2:]
    regression = regression_of(share=0.25, alone=alone)
    options = {"drawn": lambda: Pairs(NUMBERED, 2 * NUMBERED), "regression": regression}
    config, made = config_of(steps=6, learning_rate=STILL), (spy, *players()[1:])
    steps = list(train(made=made, signals=signals, config=config, **options))
    assert len(spy.asked) == 6 and {float(sigma[0]) for _, sigma, *_ in spy.asked} == set(LEVELS)
    for step, (x, sigma, *_) in zip(steps, spy.asked, strict=True):
        assert torch.equal(x, x.round())
        error = float((spy.answer(x, sigma) - 2 * x).square().mean())
        weight = regression.weight((step.number - 1) / 6)
        assert step.losses["regression"] == pytest.approx(error, rel=1e-4)
        assert step.losses["total"] == pytest.approx(weight * error, rel=1e-4)


def test_a_share_of_the_places_is_taken_evenly():
    assert evenly(8, 0.5).tolist() == [False, True] * 4
    assert evenly(10, 0.3).nonzero().flatten().tolist() == [3, 6, 9]
    for count, share in ((7, 1.0), (64, 0.25), (100, 0.07), (3, 0.1)):
        assert int(evenly(count, share).sum()) == max(1, int(count * share + 1e-6))


def test_discriminator_and_follower_move_in_every_round_on_fresh_data_and_the_student_once(train):
    made, shown = players(), []
    made[2].register_forward_pre_hook(
        lambda _, inputs, given: shown.append(given["real"]), with_kwargs=True
    )
    spy = Spy()
    term = term_of(clean=1.0)
    *_, last = train(made=(spy, *made[1:]), config=config_of(steps=2, rounds=3), term=term)
    for name, moves in (("student", 2), ("follower", 6), ("discriminator", 6)):
        state = last.state[f"{name}_optimizer"].state
        assert {int(each["step"]) for each in state.values()} == {moves}, name
    assert len(shown) == 6
    answers = [grad for *_, grad in spy.asked]  # with a gradient at the end of the last round
    assert sum(answers) == 2 and answers[-1] and not any(answers[:3])
    for real, (x, _) in zip(shown, data(6), strict=True):
        torch.testing.assert_close(real, x)
    first = [x for x, sigma, *_ in spy.asked if float(sigma[0]) == LEVELS[0]]
    assert len(first) == 6
    assert len({float(x[0, 0]) for x in first}) == 6  # noise of its own in every round


def test_seeds_draw_their_own_noise(train):
    seen = set()
    for seed in (1, 2):
        spy = Spy()
        list(train(made=(spy, *players()[1:]), config=config_of(steps=1), seed=seed))
        seen |= {float(x[0, 0]) for x, sigma, *_ in spy.asked if float(sigma[0]) == LEVELS[0]}
    assert len(seen) == 4


def test_the_pull_of_the_game_rises_and_schedules_reach_all_players(train):
    term = term_of(
        warm_up=2,
        ramp=2,
        learning_rate=Cosine(start=2e-2, end=1e-3),
        r1=Cosine(start=0.4, end=0.1),
        r2=Cosine(start=0.0, end=0.3),
    )
    made, matching = players(term), Matching(learning_rate=Cosine(start=3e-2, end=1e-3), weight=2)
    config = config_of(steps=5, learning_rate=Cosine(start=1e-2, end=1e-4))
    more = {"levels": LEVELS[:1], "config": config, "matching": matching}
    for step in train(term=term, made=made, **more):
        progress, losses = (step.number - 1) / 5, step.losses
        weight = {3: 0.25, 4: 0.5, 5: 0.5}.get(step.number)
        assert losses.get("weight") == weight
        total = weight * losses["generator"] if weight else 0.0
        total += 2 * losses["matching"]
        total += regression_of().weight(progress) * losses["regression"]
        assert losses["total"] == pytest.approx(total, rel=1e-5)
        r1, r2 = term.r1(progress), term.r2(progress)
        assert (made[2].r1, made[2].r2) == (r1, r2)
        for name, rate in (
            ("student", config.learning_rate),
            ("discriminator", term.learning_rate),
            ("follower", matching.learning_rate),
        ):
            (group,) = step.state[f"{name}_optimizer"].param_groups
            assert (group["lr"], group["betas"]) == (rate(progress), (0.0, 0.99))


def test_the_average_fades_with_the_images_of_the_whole_batch(train):
    made = players()
    steps = train(made=made, config=config_of(ema_half_life=16.0, ema_ramp=100.0))
    next(steps)
    first = weights(made[0])
    second = next(steps).average
    for a, b, mean in zip(first, made[0].parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(mean, (a + b.detach()) / 2)


@ONE_BY_ONE
def test_each_signal_alone_moves_the_student(train, signal):
    made = players()
    before = weights(made[0])
    for step in train(made=made, signals=(signal,), config=config_of(check_ranks=True)):
        assert all(math.isfinite(loss) for loss in step.losses.values())
    assert not same(weights(made[0]), before)


class Spoilt:
    """The ring, with one batch that is not a number."""

    def __init__(self, number):
        self.number = number

    def batches(self, shard):
        for i, (x, label) in enumerate(SOURCE.batches(shard), start=shard.start):
            yield x * (math.nan if i == self.number else 1), label


def test_a_loss_that_is_not_finite_stops_before_anything_has_moved(train):
    made = players()
    steps = train(made=made, source=Spoilt(4))
    next(steps)
    step = next(steps)
    moved = [*made, step.average, step.state["follower"]]
    before = [weights(player) for player in moved]
    with pytest.raises(RunError, match="the discriminator's loss stopped being finite at step 3"):
        next(steps)
    assert all(same(weights(player), old) for player, old in zip(moved, before, strict=True))


@pytest.mark.parametrize(
    ("model", "rounds"), [("student", 1), ("follower", 2), ("discriminator", 2)]
)
def test_the_model_whose_loss_is_not_finite_is_named(train, model, rounds):
    """In rounds of its own; where the student moves too, its loss is named by the wrong part."""
    made = players()
    steps = train(made=made, config=config_of(rounds=rounds))
    step = next(steps)
    with torch.no_grad():
        for weight in step.state[model].parameters():
            weight.fill_(1e30)
    moved = [made[1], step.average, *(step.state[name] for name in ("student", "follower"))]
    before = [weights(player) for player in moved]
    with pytest.raises(RunError, match=f"the {model}'s loss stopped being finite at step 2"):
        next(steps)
    assert all(same(weights(player), old) for player, old in zip(moved, before, strict=True))


def test_in_bf16_the_networks_compute_in_bf16_and_everything_stays_finite(train):
    noise = LogUniform(low=0.02, high=20.0)
    term = term_of(adaptive=True, objective="non_saturating", noise=noise)
    matching = Matching(divergence="jensen_shannon")
    made, kinds = players(term), {"student": set(), "teacher": set(), "discriminator": set()}
    for name, player in zip(kinds, made, strict=True):
        for module in player.modules():
            if isinstance(module, nn.Linear):
                note = lambda m, i, out, name=name: kinds[name].add(out.dtype)  # noqa: E731
                module.register_forward_hook(note)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    options = {"term": term, "matching": matching, "accelerator": accelerator}
    for step in train(made=made, **options):
        assert all(math.isfinite(loss) for loss in step.losses.values())
    half = {torch.bfloat16}
    assert kinds == {"student": half, "teacher": half, "discriminator": half | {torch.float32}}
    for player in (*made, step.average, step.state["follower"]):
        for p in player.parameters():
            assert p.dtype == torch.float32 and bool(p.isfinite().all())


def test_data_without_labels_is_trained_on(train):
    made = players(classes=0)
    for step in train(made=made, source=replace(SOURCE, labelled=False)):
        assert all(math.isfinite(loss) for loss in step.losses.values())


def test_what_cannot_be_trained_is_refused_before_the_first_step(train):
    with pytest.raises(ValueError, match=r"nothing pulls at the student: set adversarial.weight"):
        train(signals=())
    game = players()[2]
    for signal, half in (
        (SIGNALS[:1], {"adversarial": None}),
        ((), {"adversarial": game}),
        (SIGNALS[2:], {"pairs": None}),
        (SIGNALS[1:2], {"pairs": pairs}),
    ):
        with pytest.raises(ValueError, match="a signal needs both its settings and what it is"):
            train(signals=signal, **half)
    term = term_of(adaptive=True)
    for signals, levels in ((SIGNALS[:1], LEVELS[:1]), (SIGNALS[:1], LEVELS)):
        with pytest.raises(InputError, match="adaptive weighs the term against other"):
            train(term=term, signals=signals, levels=levels)
    next(train(term=term, signals=SIGNALS[::2], levels=LEVELS[:1]))
    with pytest.raises(InputError, match="batch of 16 cannot be cut evenly"):
        train(config=config_of(accumulation=3))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rounds": 0}, "rounds must be a whole number in .* got 0"),
        ({"steps": 0}, "steps must be a whole number in .* got 0"),
        ({"ema_half_life": 0.0}, "ema_half_life must be a number in .* got 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        DistillTraining(**settings)


def test_what_training_goes_through_is_what_the_sampler_makes():
    """The inputs of the last level of a path are those of the student's own sampler."""
    student, _, _ = players(classes=0)
    settings = StudentSettings(calls=3, high=20.0, low=0.4)
    seen = []

    def spied(x, sigma, label=None):
        seen.append(x.clone())
        return student(x, sigma, label)

    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    build_sampler(settings.sampler, spied, (2,))(noise)
    rng = rng_from(noise)
    drawn = [noise] + [torch.randn(64, 2, generator=rng) for _ in range(2)]
    levels = karras_sigmas(4, 0.4, 20.0, 7.0)[:3].tolist()
    term, matching = term_of(), Matching()
    losses = Distillation(
        *(student, None, None, None, levels, 1.0, config_of(), term, matching),
        *(adversarial_weight(term), Accelerator(cpu=True), 0.4),
    )
    path = losses.path(torch.stack(drawn, 1), 2, None)
    torch.testing.assert_close(path, seen[2], rtol=1e-4, atol=1e-4)
