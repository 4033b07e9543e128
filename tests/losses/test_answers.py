"""What discriminators may answer: maps, lists, features; and what others' losses make of them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from oracles import Codec
from torch import nn

from hybridgen import (
    AdversarialLoss,
    Answer,
    LeCam,
    PerSample,
    Unconditional,
    adaptive_weight,
    discriminator_guidance,
    feature_matching,
    features_then_logits,
    logits_then_features,
    objectives,
    smoothed,
)
from hybridgen.evaluation.density_ratio import clean_logits
from hybridgen.losses import reduction


class Fixed(nn.Module):
    """Answers with what it is made of, whatever it sees; counts its calls."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.calls = answer, []

    def forward(self, x, sigma, label=None):
        self.calls.append(len(x))
        rows = x.flatten(1)[:, 0].long()
        pick = [each[rows] + 0 * x.sum() for each in self.answer]
        return pick if len(pick) > 1 else pick[0]


def patches(width=4, dtype=torch.float32):
    """A map without overlap or padding: 4x4 pixels a patch."""
    layers = nn.Conv2d(1, width, 4, 4), nn.SiLU(), nn.Conv2d(width, 1, 1)
    return Unconditional(nn.Sequential(*layers).to(dtype))


def pixels(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_a_hinge_is_played_at_every_patch_and_not_at_their_mean():
    logits = torch.tensor([[[3.0, 3.0, 3.0, -5.0]], [[-9.0, -9.0, -9.0, -9.0]]])
    loss = AdversarialLoss(Fixed([logits]), "hinge")
    parts = loss(real=torch.zeros(1, 1), fake=torch.ones(1, 1))
    assert float(parts["adversarial"]) == 1.5
    assert float(parts["logit_real"]) == 1.0


SHAPES = {"vector": [()], "map": [(1, 2, 3)], "list": [(), (1, 2, 3), (4, 2)]}


@pytest.mark.parametrize("several", ["mean", "sum"])
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", objectives.by_name())
def test_every_game_is_the_plain_loop_over_entries(name, shapes, several):
    torch.manual_seed(0)
    game = objectives.objective(name)
    answer = [torch.randn(6, *shape, dtype=torch.float64) for shape in SHAPES[shapes]]
    x = torch.arange(6.0, dtype=torch.float64)[:, None].requires_grad_()
    loss = AdversarialLoss(Fixed(answer), name, several=several)
    real, fake = x[:3], x[3:]
    of_discriminator, of_generator = [], []
    for each in answer:
        pairs = list(zip(each[:3].flatten(), each[3:].flatten(), strict=True))
        of_discriminator.append(sum(sum(game.discriminator(r, f)) for r, f in pairs) / len(pairs))
        of_generator.append(sum(game.generator(f, r) for r, f in pairs) / len(pairs))
    count = 1 if several == "sum" else len(answer)
    measured = loss(real=real, fake=fake)["adversarial"]
    torch.testing.assert_close(measured, sum(of_discriminator) / count)
    lent = loss.generator_loss(fake=fake, real=real).detach()
    torch.testing.assert_close(lent, sum(of_generator) / count)
    assert loss.discriminator.calls == [6, 6 if game.relativistic else 3]


def gradients(loss, module):
    return torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_the_adversarial_part_of_tamings_loss_to_the_last_digit(kind):
    torch.manual_seed(0)
    disc, model, x = (
        patches(dtype=torch.float64),
        nn.Conv2d(1, 1, 3, padding=1).double(),
        pixels(5, 1, 8, 8),
    )
    weight, start = 0.8, 3
    vanilla = objectives.Objective(
        objectives.non_saturating.real_loss,
        objectives.non_saturating.fake_loss,
        objectives.hinge.generator_loss,
    )
    ours = AdversarialLoss(disc, "hinge" if kind == "hinge" else vanilla)
    for step in (2, 3):
        out = model(x)
        nll = (out - x).abs().mean()
        # Esser et al., vqperceptual.py, written out.
        g = -torch.mean(disc(out, x))
        pull, push = (
            torch.autograd.grad(part, model.weight, retain_graph=True)[0] for part in (nll, g)
        )
        d_weight = torch.clamp(pull.norm() / (push.norm() + 1e-4), 0.0, 1e4).detach() * weight
        factor = 1.0 if step >= start else 0.0
        expected = nll + d_weight * factor * g
        real, fake = disc(x, x), disc(out.detach(), x)
        if kind == "hinge":
            d = 0.5 * (torch.mean(F.relu(1.0 - real)) + torch.mean(F.relu(1.0 + fake)))
        else:
            d = 0.5 * (torch.mean(F.softplus(-real)) + torch.mean(F.softplus(fake)))
        # The same with this package.
        lent = ours.generator_loss(fake=out)
        total = nll + adaptive_weight(nll, lent, model.weight) * weight * (step >= start) * lent
        own = 0.5 * (step >= start) * ours(real=x, fake=out)["total"]

        close = {"rtol": 1e-6, "atol": 1e-9}
        torch.testing.assert_close(total, expected, **close)
        torch.testing.assert_close(own, factor * d, **close)
        for a, b in zip(gradients(total, model), gradients(expected, model), strict=True):
            torch.testing.assert_close(a, b, **close)
        for a, b in zip(gradients(own, disc), gradients(factor * d, disc), strict=True):
            torch.testing.assert_close(a, b, **close)


class Period(nn.Module):
    """One of HiFi-GAN's discriminators in small: flattened logits, and all layers as features."""

    def __init__(self, period):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(1, 4, (5, 1), (3, 1)), nn.Conv2d(4, 1, (3, 1))])
        self.period = period

    def forward(self, x):
        x = F.pad(x, (0, -x.shape[-1] % self.period), "reflect")
        x, features = x.unflatten(-1, (-1, self.period)), []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            x = x if number else F.leaky_relu(x, 0.1)
            features.append(x)
        return torch.flatten(x, 1, -1), features


class Periods(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([Period(2), Period(3)])

    def forward(self, x):
        return tuple(zip(*(part(x) for part in self.parts), strict=True))


def test_hifi_gans_losses_to_the_last_digit():
    torch.manual_seed(0)
    disc, model, y = Periods().double(), nn.Conv1d(1, 1, 3, padding=1).double(), pixels(4, 1, 40)
    # Kong et al., models.py, written out.
    g_hat = model(y)
    (d_rs, fmap_r), (d_gs, fmap_g) = disc(y), disc(g_hat)
    loss_fm = 2 * sum(
        torch.mean(torch.abs(rl.detach() - gl))
        for dr, dg in zip(fmap_r, fmap_g, strict=True)
        for rl, gl in zip(dr, dg, strict=True)
    )
    expected = sum(torch.mean((1 - dg) ** 2) for dg in d_gs) + loss_fm
    cut = disc(g_hat.detach())[0]
    expected_d = sum(
        torch.mean((1 - r) ** 2) + torch.mean(g**2) for r, g in zip(d_rs, cut, strict=True)
    )
    # The same with this package.
    ours = AdversarialLoss(
        Unconditional(disc, logits_then_features), "least_squares", several="sum"
    )
    losses = ours.generator_losses(fake=g_hat, real=y)
    total = losses["adversarial"] + 2 * losses["feature_matching"]
    own = ours(real=y, fake=g_hat)["total"]

    close = {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(total, expected, **close)
    torch.testing.assert_close(own, expected_d, **close)
    for a, b in zip(gradients(total, model), gradients(expected, model), strict=True):
        torch.testing.assert_close(a, b, **close)
    for a, b in zip(gradients(own, disc), gradients(expected_d, disc), strict=True):
        torch.testing.assert_close(a, b, **close)


def test_monais_convention_puts_the_logits_last():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 3, 3).double(), nn.Conv2d(3, 1, 3).double()

        def forward(self, x):
            return [self.first(x), self.last(self.first(x))]

    disc, real, fake = Layers(), pixels(2, 1, 8, 8), pixels(2, 1, 8, 8).requires_grad_()
    # MONAI's PatchAdversarialLoss takes the last entry; its tutorials match the others by L1.
    expected = torch.mean((disc(fake)[-1] - 1) ** 2)
    matched = F.l1_loss(disc(fake)[0], disc(real)[0].detach())
    ours = AdversarialLoss(Unconditional(disc, features_then_logits), "least_squares")
    losses = ours.generator_losses(fake=fake, real=real)
    torch.testing.assert_close(losses["adversarial"], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(losses["feature_matching"], matched, rtol=1e-6, atol=0)
    one, two = features_then_logits([disc(real), disc(fake)]).logits
    assert torch.equal(one, disc(real)[-1]) and torch.equal(two, disc(fake)[-1])


def test_features_are_normalised_by_the_real_layers_and_train_the_model_only():
    fake, real = pixels(3, 2, 5).requires_grad_(), pixels(3, 2, 5).requires_grad_()
    weight = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
    plain = feature_matching([[fake, 2 * fake]], [[real, real]], several="sum")
    torch.testing.assert_close(plain, (fake - real).abs().mean() + (2 * fake - real).abs().mean())
    shares = [(f - r).abs().mean() / real.abs().mean() for f, r in zip(fake, real, strict=True)]
    measured = feature_matching([[fake]], [[real]], normalised=True, sample_weight=weight)
    torch.testing.assert_close(measured, (shares[0] + 3 * shares[2]) / 4)
    # A silent clip has no features, and must not outweigh all others.
    silent = torch.cat([real.detach()[:1] * 0, real.detach()[1:]])
    quiet = feature_matching([[fake]], [[silent]], normalised=True)
    torch.testing.assert_close(quiet, (fake - silent).abs().mean() / silent.abs().mean())
    plain.backward()
    assert real.grad is None and fake.grad is not None
    with pytest.raises(ValueError, match="layer by layer"):
        feature_matching([[fake]], [[real, real]])


def test_features_among_logits_are_not_taken_for_logits():
    x = torch.randn(2, 3, 8, 8)
    for answer in (
        [torch.randn(2, 64, 4, 4), torch.randn(2, 1, 4, 4)],
        (torch.randn(2, 1, 4, 4), torch.randn(2, 16, 4, 4)),
    ):
        with pytest.raises(ValueError, match="some must be features: return"):
            AdversarialLoss(Fixed(answer), "hinge").generator_loss(fake=x.requires_grad_())


def test_features_that_are_not_lent_are_missed_in_a_sentence():
    loss = AdversarialLoss(Unconditional(nn.Conv2d(1, 1, 3)), "hinge", normalised_features=True)
    fake = torch.randn(2, 1, 8, 8, requires_grad=True)
    losses = loss.generator_losses(fake=fake, real=fake.detach())
    with pytest.raises(ValueError, match="feature matching needs `real`, and"):
        losses["feature_matching"]


@pytest.mark.parametrize("finite_difference", [None, 1e-3])
def test_penalties_depend_neither_on_the_picture_nor_on_the_batch(finite_difference):
    disc = nn.Conv2d(1, 1, 4, 4, bias=False)
    loss = AdversarialLoss(
        Unconditional(disc), "hinge", r1=1.0, r2=1.0, gp=1.0, finite_difference=finite_difference
    )
    slope = float(disc.weight.detach().square().sum())
    for batch, size in ((1, 4), (3, 32)) if finite_difference is None else ((4000, 4), (4000, 8)):
        x = torch.randn(batch, 1, size, size)
        parts = loss(real=x, fake=x + 1, rng=torch.Generator().manual_seed(0))
        close = 1e-5 if finite_difference is None else 0.1
        assert float(parts["r1"]) == pytest.approx(slope, rel=close)
        assert float(parts["r2"]) == pytest.approx(slope, rel=close)
        assert float(parts["gp"]) == pytest.approx((slope**0.5 - 1) ** 2, rel=1e-4, abs=1e-6)


def test_each_discriminators_penalty_is_its_own_and_they_are_averaged_or_summed():
    class Two(nn.Module):
        def forward(self, x, sigma, label=None):
            return [3 * x[:, 0], 4 * x[:, 1]]

    x = torch.zeros(2, 2)
    mean, total = (
        AdversarialLoss(Two(), r1=1.0, several=several)(real=x, fake=x)["r1"]
        for several in ("mean", "sum")
    )
    assert (float(mean), float(total)) == (12.5, 25.0)


@pytest.mark.parametrize("finite_difference", [None, 0.01])
def test_r1_alone_looks_at_no_slope_of_fake_samples(finite_difference):
    class Root(nn.Module):
        """Its slope is infinite at the fake samples."""

        def __init__(self):
            super().__init__()
            self.calls = []

        def forward(self, x, sigma, label=None):
            self.calls.append(len(x))
            return x[:, 0].sqrt()

    disc = Root()
    loss = AdversarialLoss(disc, r1=1.0, r2=0.0, gp=0.0, finite_difference=finite_difference)
    real = torch.ones(3, 1)
    parts = loss(real=real, fake=torch.zeros(3, 1), rng=torch.Generator().manual_seed(0))
    assert "r2" not in parts and bool(parts["total"].isfinite())
    assert disc.calls == ([3, 3] if finite_difference is None else [9])


class Conditional(nn.Module):
    def forward(self, x, sigma, label=None, condition=None):
        first, second = condition["a"], condition["b"][0]
        return x[:, 0] * first + 100 * second


def test_a_condition_reaches_both_turns_and_is_not_penalised():
    x, condition = torch.full((2, 1), 3.0, requires_grad=True), torch.tensor([1.0, 2.0])
    condition = {"a": condition, "b": (torch.ones(2, requires_grad=True),)}
    for finite_difference in (None, 1e-3):
        options = {"r1": 1.0, "r2": 1.0, "gp": 1.0, "finite_difference": finite_difference}
        loss = AdversarialLoss(Conditional(), objectives.wasserstein, **options)
        parts = loss(real=x, fake=x, condition=condition)
        assert float(parts["logit_real"]) == pytest.approx(104.5)
        assert float(parts["gp"]) == pytest.approx(0.5)
        if finite_difference is None:
            assert float(parts["r1"]) == float(parts["r2"]) == 2.5
        assert parts["adversarial"].item() == 0
    assert loss.generator_loss(fake=x, condition=condition).item() == -104.5
    with pytest.raises(ValueError, match="give it a fourth argument"):
        AdversarialLoss(Codec())(real=x, fake=x, condition=condition)
    with pytest.raises(ValueError, match=r"condition must have one row for each of 2 .* got \[3\]"):
        loss(real=x, fake=x, condition={"a": torch.ones(3), "b": (torch.ones(2),)})


def test_an_unpaired_game_takes_batches_of_different_sizes():
    loss, real, fake = (
        AdversarialLoss(patches(), "hinge", r1=0.1),
        *(torch.randn(n, 1, 8, 8) for n in (2, 5)),
    )
    for weights in ({}, {"r2": 0.2}, {"r1": 0.0}):
        for name, value in weights.items():
            setattr(loss, name, value)
        parts = loss(real=real, fake=fake)
        logits = [loss.discriminator(x, None) for x in (real, fake)]
        expected = F.relu(1 - logits[0]).mean() + F.relu(1 + logits[1]).mean()
        torch.testing.assert_close(parts["adversarial"], expected.detach())
    with pytest.raises(ValueError, match=r"got \[2, 1, 8, 8\] and \[5.*: a relativistic objective"):
        AdversarialLoss(patches())(real=real, fake=fake)
    with pytest.raises(ValueError, match="sample_weight takes them in pairs"):
        loss(real=real, fake=fake, sample_weight=torch.ones(5))


def test_weights_of_samples_and_places_make_weighted_means():
    logits = pixels(4, 1, 2, 2)
    loss = AdversarialLoss(Fixed([logits, logits[:, 0]]), "wasserstein")
    real, fake = pixels(2, 1) * 0, pixels(2, 1) * 0
    real[1], fake[0], fake[1] = 1, 2, 3
    weight, mask = torch.tensor([1.0, 3.0]), torch.zeros(2, 4, 4)
    mask[:, :2, :] = 1  # the upper row of patches
    parts = loss(real=real, fake=fake, sample_weight=weight, mask=mask)
    upper = (logits[2:, 0, 0] - logits[:2, 0, 0]).mean(1)
    torch.testing.assert_close(parts["adversarial"], (upper[0] + 3 * upper[1]) / 4)
    lent = loss.generator_loss(fake=fake.requires_grad_(), sample_weight=weight)
    of_fake = logits[2:].flatten(1).mean(1)
    torch.testing.assert_close(lent.detach(), -(of_fake[0] + 3 * of_fake[1]) / 4)
    masked = loss.generator_loss(fake=fake, mask=mask)
    torch.testing.assert_close(masked.detach(), -logits[2:, 0, 0].mean())
    with pytest.raises(ValueError, match="sample_weight must be finite and not negative"):
        loss(real=real, fake=fake, sample_weight=-weight)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_computes_what_training_does(mode):
    torch.manual_seed(0)
    labelled = {"label": torch.tensor([0, 1, 2, 0])}
    loss = AdversarialLoss(Codec(), r1=0.3, r2=0.2, gp=1.0)
    real, fake = torch.randn(4, 1, 30), torch.randn(4, 1, 30, requires_grad=True)
    trained = loss(real=real, fake=fake, rng=torch.Generator().manual_seed(0), **labelled)
    lent = loss.generator_losses(fake=fake, real=real, **labelled)
    with mode():
        inside = {name: each.clone() for name, each in (("real", real), ("fake", fake))}
        inside |= {name: each.clone() for name, each in labelled.items()}
        evaluated = loss(**inside, rng=torch.Generator().manual_seed(0))
        again = loss.generator_losses(**inside)
    for a, b in ((trained, evaluated), (lent, again)):
        assert a.keys() == b.keys() and not any(value.requires_grad for value in b.values())
        for name, value in a.items():
            torch.testing.assert_close(b[name].clone(), value.detach())


def test_bf16_outputs_and_bf16_discriminators():
    torch.manual_seed(0)
    real, fake = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8, requires_grad=True)
    plain = AdversarialLoss(patches(), r1=0.5, r2=0.5)
    half = AdversarialLoss(copy.deepcopy(plain.discriminator).bfloat16(), r1=0.5, r2=0.5)
    low = fake.bfloat16()
    exact = plain.generator_loss(fake=low.float(), real=real.bfloat16().float())
    torch.testing.assert_close(plain.generator_loss(fake=low, real=real), exact)
    reference, parts = plain(real=real, fake=fake), half(real=real, fake=fake)
    for name in ("r1", "r2", "adversarial"):
        assert parts[name].dtype == torch.float32
        torch.testing.assert_close(parts[name], reference[name], rtol=0.05, atol=0.01)
    parts["total"].backward()
    mixed = AdversarialLoss(plain.discriminator)(real=real.bfloat16(), fake=fake)
    assert float(mixed["logit_fake"]) == pytest.approx(float(reference["logit_fake"]), abs=1e-6)


def test_compiled_losses_and_discriminators_are_penalised_and_saved_under_plain_names():
    torch.manual_seed(0)
    x = torch.randn(3, 1, 8, 8)
    plain = AdversarialLoss(patches(), r1=0.5, r2=0.2)
    twin = copy.deepcopy(plain.discriminator)
    inner = AdversarialLoss(torch.compile(twin, backend="aot_eager"), r1=0.5, r2=0.2)
    assert inner.state_dict().keys() == plain.state_dict().keys()
    outer = torch.compile(copy.deepcopy(plain), backend="aot_eager")
    for loss in (plain, inner, outer):
        loss(real=x, fake=x + 1)["total"].backward()
    for compiled in (inner, outer):
        for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)


def test_schedules_survive_and_wrong_weights_are_refused_later_too():
    loss, other = AdversarialLoss(patches(), r1=0.5, gp=2.0), AdversarialLoss(patches())
    loss.r1, loss.r2 = 0.25, 0.125
    other.load_state_dict(loss.state_dict())
    assert (other.r1, other.r2, other.gp) == (0.25, 0.125, 2.0)
    for name in ("r1", "r2", "gp"):
        for value in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"{name} must be finite and >= 0, got {value}"):
                setattr(loss, name, value)
    with pytest.raises(ValueError, match="finite_difference is a step > 0"):
        loss.finite_difference = -1.0


def test_batch_normalisation_is_accepted_where_it_is_frozen_and_stays_in_eval_mode():
    norm = nn.BatchNorm2d(1).eval().requires_grad_(False)
    loss = AdversarialLoss(Unconditional(nn.Sequential(norm, nn.Conv2d(1, 1, 3))), r1=0.1)
    x = torch.randn(2, 1, 8, 8)
    loss(real=x, fake=x)
    with pytest.raises(ValueError, match="freeze it and keep it in eval mode"):
        loss.train()(real=x, fake=x)


@pytest.mark.parametrize("part", [nn.Dropout(0.5), nn.AlphaDropout(0.1)])
def test_finite_differences_refuse_a_discriminator_that_draws(part):
    disc = Unconditional(nn.Sequential(nn.Linear(2, 2), part, nn.Linear(2, 1)))
    loss, x = AdversarialLoss(disc, r1=1.0, finite_difference=0.01), torch.randn(3, 2)
    with pytest.raises(ValueError, match=r"random numbers \(dropout\?\)"):
        loss(real=x, fake=x)
    loss.eval()(real=x, fake=x)


def test_lecam_is_the_distance_to_the_other_sides_average():
    logits = torch.tensor([2.0, 4.0, -1.0, -3.0])
    lecam = LeCam(0.5, decay=0.9)
    loss = AdversarialLoss(Fixed([logits]), "wasserstein", lecam=lecam)
    real, fake = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    parts = loss(real=real, fake=fake)
    a_real, a_fake = 0.1 * 3.0, 0.1 * -2.0
    expected = ((2 - a_fake) ** 2 + (4 - a_fake) ** 2 + (1 + a_real) ** 2 + (3 + a_real) ** 2) / 2
    assert float(parts["lecam"]) == pytest.approx(expected)
    assert float(parts["total"].detach()) == pytest.approx(-5 + 0.5 * expected)
    other = AdversarialLoss(Fixed([logits]), lecam=LeCam(0.5))
    other.load_state_dict(loss.state_dict())
    assert float(other.lecam.real_mean) == pytest.approx(a_real)
    with torch.no_grad():
        loss(real=real, fake=fake)
    assert float(lecam.real_mean) == pytest.approx(a_real)
    with pytest.raises(ValueError, match=r"LeCam\(weight, discriminators=2\)"):
        AdversarialLoss(Codec(), lecam=LeCam(1.0))(
            real=torch.ones(2, 1, 30), fake=torch.ones(2, 1, 30)
        )


def test_smoothing_is_cross_entropy_with_a_lower_target_on_real_samples_alone():
    real, fake = pixels(9), pixels(9)
    on_real, on_fake = smoothed(objectives.non_saturating, 0.1).discriminator(real, fake)
    target = torch.full_like(real, 0.9)
    expected = F.binary_cross_entropy_with_logits(real, target, reduction="none")
    torch.testing.assert_close(on_real, expected)
    assert torch.equal(on_fake, F.softplus(fake))
    with pytest.raises(ValueError, match=r"got 0\.1 of a relativistic game"):
        smoothed(objectives.relativistic, 0.1)


def test_what_needs_one_logit_refuses_patches_unless_told_how_to_reduce():
    disc, x, sigma = patches(), torch.randn(2, 1, 8, 8), torch.ones(2)

    class Knowing(nn.Module):
        def forward(self, x, sigma, label=None):
            return disc(x, sigma)

    def denoiser(x, sigma, label=None):
        return x

    for call in (
        lambda: discriminator_guidance(denoiser, Knowing(), 1.0)(x, sigma),
        lambda: clean_logits(Knowing(), x, 0.1),
    ):
        with pytest.raises(ValueError, match=r"hybridgen\.PerSample"):
            call()
    mean = disc(x, sigma).mean((1, 2, 3))
    torch.testing.assert_close(PerSample(Knowing())(x, sigma), mean)
    discriminator_guidance(denoiser, PerSample(Knowing()), 1.0)(x, sigma)
    assert len(clean_logits(PerSample(Knowing()), x, 0.1)) == 2
    with pytest.raises(ValueError, match="must know the noise level"):
        discriminator_guidance(denoiser, PerSample(disc), 1.0)
    total = PerSample(Knowing(), reduce=lambda maps: maps[0].flatten(1).sum(1))(x, sigma)
    torch.testing.assert_close(total, 4 * mean)


def answering(answer):
    class Constant(nn.Module):
        def forward(self, x, sigma, label=None):
            return answer(x)

    return AdversarialLoss(Constant(), "hinge")


def game(real, fake=None, answer=lambda x: x.flatten(1).mean(1)):
    return answering(answer)(real=real, fake=torch.zeros(real.shape) if fake is None else fake)


def lend(fake, answer=lambda x: x.flatten(1).mean(1)):
    return answering(answer).generator_loss(fake=fake)


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda: game(torch.zeros(2, 3, dtype=torch.uint8)), "real must be .* got torch.uint8"),
        (lambda: game(torch.zeros(2, 3).long()), "real must be floating-point .* torch.int64"),
        (lambda: lend(torch.zeros(2, 3).bool()), "fake must be floating-point .* torch.bool"),
        (lambda: game(torch.zeros(2, 3) + 0j), "got torch.complex64.*view_as_real"),
        (lambda: game(torch.zeros(0, 3)), r"at least one sample, \[b \.\.\.\], got \[0, 3\]"),
        (lambda: game(torch.full((2, 3), torch.nan)), "6 of the 6 numbers in real are NaN"),
        (
            lambda: lend(torch.full((2, 3), torch.inf).requires_grad_()),
            "6 of the 6 numbers in fake",
        ),
        (lambda: lend(torch.zeros(2, 3)), "fake carries no gradient"),
        (
            lambda: game(torch.zeros(2, 3), answer=lambda x: x),
            r"\[4, 3\] may be classes or patches",
        ),
        (lambda: game(torch.zeros(2, 3), answer=lambda x: x.sum()), "do not reduce over the batch"),
        (lambda: game(torch.zeros(2, 3), answer=lambda x: None), "this one returned NoneType"),
        (lambda: game(torch.zeros(2, 3), answer=lambda x: [[x]]), "where logits belong"),
        (lambda: game(torch.zeros(2, 3), answer=lambda x: x[:, 0] + 0j), "floating-point logits"),
        (
            lambda: game(torch.zeros(2, 3), answer=lambda x: Answer(x[:, 0], [[x], [x]])),
            "features of 2 and logits of 1",
        ),
        (
            lambda: lend(
                torch.zeros(1, 3, requires_grad=True),
                lambda x: x[:, None].repeat(1, 2, 1).squeeze(),
            ),
            r"squeeze\(1\), not squeeze\(\), which drops a batch of one",
        ),
        (lambda: AdversarialLoss(Codec(), several="max"), "mean, sum, got 'max'"),
        (
            lambda: AdversarialLoss(
                nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
            ),
            "wrap the whole AdversarialLoss",
        ),
    ],
)
def test_misuse_gets_a_sentence(misuse, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        misuse()
    assert len(str(error.value)) <= 300


def test_a_batch_of_one_may_lose_its_axis():
    fake = torch.full((1, 1), 2.0, requires_grad=True)
    assert lend(fake, lambda x: x.squeeze()).item() == -2


def test_a_mask_of_time_is_the_same_over_periods_and_frequencies():
    x, mask = torch.randn(2, 1, 100), torch.ones(2, 100)
    mask[:, 50:] = 0
    logits = torch.randn(2, 1, 25, 2)

    class Period(nn.Module):
        def forward(self, x, sigma, label=None):
            return logits + 0 * x.mean()

    loss = AdversarialLoss(Period(), "hinge")
    lent = loss.generator_loss(fake=x.requires_grad_(), mask=mask)
    weight = torch.tensor([1.0] * 12 + [0.5] + [0.0] * 12)[:, None]
    expected = -(weight * logits).sum() / (4 * weight.sum())
    torch.testing.assert_close(lent.detach(), expected)
    with pytest.raises(ValueError, match=r"places, .2, 100. for samples"):
        loss.generator_loss(fake=x, mask=mask[:, None])


def test_a_discriminator_that_cuts_the_gradient_is_said():
    class Cut(nn.Module):
        def forward(self, x, sigma, label=None):
            return x.detach().mean((1, 2, 3))

    fake = torch.randn(2, 1, 4, 4, requires_grad=True)
    with pytest.raises(ValueError, match="cuts the gradient"):
        AdversarialLoss(Cut(), "hinge").generator_loss(fake=fake)
    with torch.no_grad():
        AdversarialLoss(Cut(), "hinge").generator_loss(fake=fake)


def test_one_process_may_evaluate_alone_with_weights(monkeypatch):
    monkeypatch.setattr(reduction, "processes", lambda: 2)
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda *_: pytest.fail("the others would be waited for")
    )
    loss = AdversarialLoss(Unconditional(nn.Conv2d(1, 1, 3)), "hinge", r1=1.0)
    x, weight = torch.randn(2, 1, 4, 4), torch.tensor([1.0, 2.0])
    with torch.no_grad():
        loss(real=x, fake=x, sample_weight=weight)
        loss.generator_loss(fake=x, sample_weight=weight)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sample_weight": torch.ones(2, 1)}, "sample_weight must be .2., got .2, 1."),
        ({"sample_weight": torch.tensor([1.0, math.inf])}, "must be finite and not negative"),
    ],
)
def test_weights_that_cannot_be_are_said(arguments, sentence):
    loss = AdversarialLoss(Unconditional(nn.Conv2d(1, 1, 3)), "hinge")
    x = torch.randn(2, 1, 4, 4)
    with pytest.raises(ValueError, match=sentence):
        loss(real=x, fake=x, **arguments)


def test_what_is_no_lecam_is_said_when_it_is_given():
    with pytest.raises(ValueError, match=r"give LeCam\(0.3\)"):
        AdversarialLoss(Unconditional(nn.Conv2d(1, 1, 3)), lecam=0.3)
    lecam = LeCam(0.3)
    loss = AdversarialLoss(Unconditional(nn.Conv2d(1, 1, 3)), "hinge", lecam=lecam)
    lecam.weight = -1
    with pytest.raises(ValueError, match="penalty weight lecam"):
        loss(real=torch.ones(2, 1, 4, 4), fake=torch.ones(2, 1, 4, 4))


@pytest.mark.parametrize("answer", [features_then_logits, logits_then_features])
def test_what_has_no_features_is_said_by_the_adapters(answer):
    with pytest.raises(ValueError, match="expected "):
        answer(torch.randn(2, 1, 4, 4))
