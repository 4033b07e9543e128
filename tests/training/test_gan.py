import math
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import hybridgen
from hybridgen import AdversarialLoss
from hybridgen.data.augment import Augment, DiffusionNoise
from hybridgen.data.images import digits
from hybridgen.data.points import MixturePoints
from hybridgen.data.settings import AugmentSettings, DiffusionNoiseSettings
from hybridgen.data.source import Shard
from hybridgen.errors import RunError
from hybridgen.maths import objectives
from hybridgen.maths.mixtures import ring
from hybridgen.networks.dcgan import DcganDiscriminator, DcganGenerator
from hybridgen.networks.mlp import MlpDiscriminator
from hybridgen.training.gan import train_gan
from hybridgen.training.run import Run
from hybridgen.training.settings import Cosine

LABELLED = MixturePoints(mixture=ring().standardised(), name="ring", labelled=True)


@dataclass(frozen=True)
class Settings:
    out: Path | None = None


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Watched:
    """A source that remembers which batches were taken, and may spoil one."""

    def __init__(self, bad=None):
        self.taken, self.bad = [], bad

    def batches(self, shard):
        for i, (x, label) in enumerate(LABELLED.batches(shard), start=shard.start):
            self.taken.append(i)
            yield x * (math.nan if i == self.bad else 1), label


def picture_players(**game):
    """Everything that has a state: batch normalisation, labels, adaptive augmentation."""
    torch.manual_seed(0)
    size = {"resolution": 8, "channels": 1, "width": 8, "classes": 10}
    return DcganGenerator(latent=3, **size), AdversarialLoss(
        DcganDiscriminator(**size), objectives.relativistic, r1=0.3, r2=0.2, **game
    )


def augmented_players():
    pytest.importorskip("kornia")
    settings = AugmentSettings(strength=0.5, adaptive=True, speed_images=500)
    return picture_players(augment=Augment(settings))


def told_the_noise(players):
    torch.manual_seed(0)
    return players(MlpDiscriminator(width=8, depth=1, classes=8, noise_conditional=True))


DEEP = DiffusionNoiseSettings(highest=1.0, target=-0.9, speed_images=100)


def test_every_step_takes_a_batch_for_the_discriminator_and_the_next_for_the_generator(
    train, training
):
    source = Watched()
    numbers = [step.number for step in train(training(steps=3), source=source)]
    assert numbers == [1, 2, 3]
    assert source.taken == list(range(6))


def test_one_step_passes_through_few_functions_in_few_files(train, training):
    """A reader follows a step of the digits' default GAN within minutes: the walk stays short."""
    torch.manual_seed(0)
    size = {"resolution": 8, "channels": 1, "width": 8}
    made = DcganGenerator(**size), AdversarialLoss(DcganDiscriminator(**size))
    steps = train_gan(
        *made,
        lambda start: digits().batches(Shard(batch=16, seed=0, start=start)),
        training(batch=16),
        Accelerator(cpu=True),
        latent=64,
    )
    next(steps)
    functions, root = set(), str(Path(hybridgen.__path__[0]))

    def record(frame, event, _):
        code = frame.f_code
        comprehension = code.co_name.startswith("<")
        if event == "call" and code.co_filename.startswith(root) and not comprehension:
            functions.add((code.co_filename.removeprefix(root), code.co_qualname))

    sys.setprofile(record)
    next(steps)
    sys.setprofile(None)
    listing = "\n".join(f"{file} {name}" for file, name in sorted(functions))
    assert len(functions) <= 43, listing
    assert len({file for file, _ in functions}) <= 13, listing


def test_a_resumed_training_goes_on_with_the_batch_after_the_last(train, training):
    source = Watched()
    numbers = [s.number for s in train(training(steps=5), source=source, resume=lambda _: 3)]
    assert numbers == [4, 5]
    assert source.taken == [6, 7, 8, 9]


def test_a_finished_training_yields_its_last_step_without_losses(train, training):
    (step,) = train(training(steps=5), resume=lambda _: 5)
    assert (step.number, dict(step.losses)) == (5, {})
    assert set(step.state) == {
        "generator",
        "discriminator",
        "average",
        "generator_optimizer",
        "discriminator_optimizer",
    }


def test_a_batch_in_four_parts_gives_the_gradients_and_weights_of_one(
    train, training, players, double
):
    runs = []
    for parts in (1, 4):
        made = players()
        *_, last = train(training(steps=3, accumulation=parts), made)
        moved = [p for player in made for p in player.parameters()]
        runs.append(([p.grad for p in moved], moved, last.losses))
    for whole, parts in zip(*(grads + moved for grads, moved, _ in runs), strict=True):
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    assert runs[1][2] == pytest.approx(runs[0][2], abs=1e-6)


@pytest.mark.parametrize(
    ("make", "source", "noise"),
    [
        (None, LABELLED, None),
        (lambda players: players(finite_difference=0.05), LABELLED, None),
        (lambda players: picture_players(), digits(labelled=True), None),
        (lambda players: augmented_players(), digits(labelled=True), None),
        (lambda players: told_the_noise(players), LABELLED, DEEP),
    ],
    ids=["labels", "finite differences", "batch normalisation", "augmentation", "noise"],
)
def test_a_training_resumed_at_any_step_is_bit_equal_to_an_uninterrupted_one(
    tmp_path, train, training, players, make, source, noise
):
    config = training(
        steps=6,
        learning_rate=Cosine(start=3e-3, end=1e-4),
        beta2=Cosine(start=0.9, end=0.99),
        ema_half_life=30.0,
        ema_ramp=10.0,
    )
    finals = []
    for stops in ((), (1, 3, 4)):
        folder = tmp_path / str(len(stops))
        for stop in (*stops, None):
            made = players() if make is None else make(players)
            accelerator = Accelerator(cpu=True)
            set_seed(1)
            with Run(folder, Settings(), accelerator) as run:
                more = {} if noise is None else {"noise": DiffusionNoise(noise)}
                more |= {"accelerator": accelerator, "source": source}
                steps = train(config, made, resume=run.resume, **more)
                for step in steps:
                    if step.number == stop:
                        run.save(step)
                        break
        entries = [*step.state["generator"].state_dict().values(), *step.losses.values()]
        entries += [*step.state["discriminator"].state_dict().values()]
        entries += [*step.average.state_dict().values()]
        if "augment" in step.state:
            entries.append(step.state["augment"].strength)
            assert step.state["augment"].strength != 0.5
        if noise is not None:
            entries.append(step.state["diffusion"].depth)
            assert 0 < step.state["diffusion"].depth < 1
        finals.append([torch.as_tensor(entry).clone() for entry in entries])
    assert same(*finals)


def test_each_player_is_moved_by_its_own_optimiser_only_and_collects_its_own_gradients(
    train, training, players
):
    generator, adversarial = players()
    sides = {"generator": generator, "discriminator": adversarial}
    seen: list[str] = []
    before: dict[str, list] = {}
    collected: dict[str, list | None] = {"generator": None, "discriminator": None}

    def gradients(side):
        grads = [p.grad for p in sides[side].parameters()]
        return None if grads[0] is None else [g.clone() for g in grads]

    def owner(optimizer):
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        (name,) = (n for n, side in sides.items() if mine == {id(p) for p in side.parameters()})
        return name

    def pre(optimizer, *_):
        mine = owner(optimizer)
        other = "discriminator" if mine == "generator" else "generator"
        theirs = gradients(other)
        assert (theirs is None) == (collected[other] is None)
        assert theirs is None or same(theirs, collected[other])
        collected[mine] = gradients(mine)
        before.update({name: weights(side) for name, side in sides.items()})

    def post(optimizer, *_):
        mine = owner(optimizer)
        for name, side in sides.items():
            assert same(before[name], weights(side)) == (name != mine)
        seen.append(mine)

    hooks = [register_optimizer_step_pre_hook(pre), register_optimizer_step_post_hook(post)]
    try:
        list(train(training(steps=3), (generator, adversarial)))
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == ["discriminator", "generator"] * 3
    assert all(p.requires_grad for side in sides.values() for p in side.parameters())


def test_a_loss_that_is_not_finite_stops_before_anything_has_moved(train, training, players):
    made = players()
    steps = train(training(), made, source=Watched(bad=4))  # the discriminator's batch of step 3
    next(steps), next(steps)
    before = [weights(player) for player in made]
    with pytest.raises(
        RunError, match=r"discriminator's loss .* at step 3: its part 'adversarial' is nan"
    ):
        next(steps)
    assert all(same(weights(player), old) for player, old in zip(made, before, strict=True))


def test_a_generator_whose_loss_is_not_finite_has_not_moved(train, training, players):
    generator, adversarial = players()
    steps = train(training(), (generator, adversarial), source=Watched(bad=5))
    next(steps), next(steps)
    before = weights(generator)
    with pytest.raises(RunError, match="generator's loss stopped being finite at step 3"):
        next(steps)
    assert same(weights(generator), before)


class Steep(nn.Module):
    """A discriminator whose logits are finite and whose slope on fakes overflows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1e20))

    def forward(self, x, sigma, label):
        return ((x - x.detach()) * self.weight).sum(1)


def test_the_part_of_the_loss_that_went_first_is_named(train, training, players):
    with pytest.raises(RunError, match="step 1: its part 'r1' is inf"):
        next(train(training(), players(Steep())))


def test_schedules_reach_both_optimisers_and_the_penalties(train, training, players):
    schedules = {
        "learning_rate": Cosine(start=1e-2, end=1e-4),
        "beta2": Cosine(start=0.9, end=0.99, until=0.5),
        "r1": Cosine(start=0.4, end=0.1),
        "r2": Cosine(start=0.0, end=0.3),
    }
    generator, adversarial = players()
    for step in train(training(steps=4, **schedules), (generator, adversarial)):
        progress = (step.number - 1) / 4
        now = {name: schedule(progress) for name, schedule in schedules.items()}
        for player in ("generator", "discriminator"):
            (group,) = step.state[f"{player}_optimizer"].param_groups
            assert group["lr"] == now["learning_rate"]
            assert group["betas"] == (0.0, now["beta2"])
        assert (adversarial.r1, adversarial.r2) == (now["r1"], now["r2"])
        losses = step.losses
        whole = losses["adversarial"] + sum(
            now[name] / 2 * losses[name] for name in ("r1", "r2") if now[name] > 0
        )
        assert losses["discriminator"] == pytest.approx(whole, rel=1e-5)


def test_the_average_fades_with_the_images_of_the_whole_batch(train, training, players):
    generator, adversarial = players()
    config = training(steps=2, batch=16, ema_half_life=16.0, ema_ramp=100.0)
    steps = train(config, (generator, adversarial))
    next(steps)
    first = weights(generator)
    second = next(steps).average
    for a, b, mean in zip(first, generator.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(mean, (a + b.detach()) / 2)


class Told(nn.Module):
    """An augmentation that changes nothing and remembers what it is told."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        return x

    def update(self, sign, images):
        self.calls.append((sign, images))


def test_an_adaptive_augmentation_is_told_how_well_the_discriminator_does_in_every_step(
    train, training, players
):
    told = Told()
    expected = [
        (step.losses["sign_accuracy"], 16)
        for step in train(training(steps=3, accumulation=2), players(augment=told))
    ]
    assert told.calls == expected
    assert len({sign for sign, _ in expected}) > 1


def test_seeds_and_steps_draw_their_own_latents(train, training, players):
    generator, adversarial = players()
    seen = []
    generator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    list(train(training(steps=2), (generator, adversarial)))
    assert len(seen) == 4 and len({tuple(x.flatten().tolist()) for x in seen}) == 4


def test_in_bf16_the_generator_computes_in_bf16_and_a_penalised_discriminator_in_fp32(
    train, training, players
):
    generator, adversarial = players()
    kinds = {"generator": set(), "discriminator": set(), "lent": set()}

    def note(side):
        def hook(module, inputs, output):
            frozen = not module.weight.requires_grad
            kinds["lent" if frozen else side].add(output.dtype)

        return hook

    for side, player in (("generator", generator), ("discriminator", adversarial)):
        for module in player.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(note(side))
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    for step in train(training(steps=8), (generator, adversarial), accelerator=accelerator):
        assert all(math.isfinite(loss) for loss in step.losses.values())
    assert kinds == {
        "generator": {torch.bfloat16},
        "discriminator": {torch.float32},
        "lent": {torch.bfloat16},
    }
    assert all(p.dtype == torch.float32 for p in generator.parameters())
    assert all(bool(torch.isfinite(p).all()) for p in generator.parameters())
