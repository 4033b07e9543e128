"""The adversarial loss: what it trains, what it leaves alone, and what it refuses."""

import copy
import math

import pytest
import torch
from oracles import Attentive
from torch import nn

from hybridgen import AdversarialLoss, Unconditional, objectives
from hybridgen.losses.adversarial import frozen

W = torch.tensor([3.0, -4.0])


class Linear(nn.Module):
    """A discriminator with a closed form: `logit = w x + v sigma + u[label]`."""

    def __init__(self, w=W, dtype=torch.float32):
        super().__init__()
        self.layer = nn.Linear(len(w), 1, dtype=dtype)
        self.layer.weight.data.copy_(w[None])
        self.layer.bias.data.zero_()
        self.labels = nn.Embedding(3, 1, dtype=dtype)

    def forward(self, x, sigma, label=None):
        logits = self.layer(x)[:, 0] + 2 * sigma
        return logits if label is None else logits + self.labels(label)[:, 0]


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x, sigma, label=None):
        return self.net(x)[:, 0]


def leaf(*shape):
    return torch.zeros(*shape, requires_grad=True)


def grads(module):
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def test_the_parts_are_the_closed_forms_of_a_linear_discriminator():
    real, fake = torch.randn(64, 2), torch.randn(64, 2) + 1
    adversarial = AdversarialLoss(Linear(), objectives.non_saturating, r1=0.2, r2=0.6, gp=10.0)
    parts = adversarial(real=real, fake=fake)
    game = sum(objectives.non_saturating.discriminator(real @ W, fake @ W)).mean()
    torch.testing.assert_close(parts["adversarial"], game.detach())
    torch.testing.assert_close(parts["r1"], torch.tensor(25.0))
    torch.testing.assert_close(parts["r2"], torch.tensor(25.0))
    torch.testing.assert_close(parts["gp"], torch.tensor(16.0))
    torch.testing.assert_close(
        parts["total"].detach(), game.detach() + 0.1 * 25 + 0.3 * 25 + 10 * 16
    )
    torch.testing.assert_close(parts["logit_real"], (real @ W).mean())
    torch.testing.assert_close(parts["sign_accuracy"], (real @ W - fake @ W).sign().mean())


@pytest.mark.parametrize("shift", [-5.0, 5.0])
def test_the_separation_does_not_change_when_all_logits_move_together(shift):
    discriminator = Linear()
    real, fake = torch.randn(64, 2), torch.randn(64, 2)
    before = AdversarialLoss(discriminator)(real=real, fake=fake)["sign_accuracy"]
    discriminator.layer.bias.data.add_(shift)
    torch.testing.assert_close(
        AdversarialLoss(discriminator)(real=real, fake=fake)["sign_accuracy"], before
    )


def test_r1_is_measured_on_real_and_r2_on_fake_samples():
    class Quadratic(nn.Module):
        def forward(self, x, sigma, label=None):
            return x.square().sum(1)

    real, fake = torch.full((4, 2), 1.0), torch.full((4, 2), 3.0)
    parts = AdversarialLoss(Quadratic(), r1=1.0, r2=1.0)(real=real, fake=fake)
    assert float(parts["r1"]) == pytest.approx(8)
    assert float(parts["r2"]) == pytest.approx(72)


@pytest.mark.parametrize("batch", [1, 16, 256])
def test_penalties_do_not_depend_on_the_batch_size(batch):
    x = torch.randn(batch, 2)
    parts = AdversarialLoss(Linear(), r1=1.0, r2=1.0)(real=x, fake=x + 1)
    assert float(parts["r1"]) == pytest.approx(25)
    assert float(parts["r2"]) == pytest.approx(25)


def test_finite_differences_estimate_the_same_penalties():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(50_000, 2, generator=generator)
    torch.manual_seed(0)
    discriminator = Mlp()
    exact = AdversarialLoss(discriminator, r1=1.0, r2=1.0)(real=real, fake=real + 1)
    estimate = AdversarialLoss(discriminator, r1=1.0, r2=1.0, finite_difference=0.01)(
        real=real, fake=real + 1, rng=generator
    )
    for name in ("r1", "r2"):
        assert float(estimate[name]) == pytest.approx(float(exact[name]), rel=0.05)
    assert float(estimate["adversarial"]) == pytest.approx(float(exact["adversarial"]), rel=1e-5)


def test_equal_generators_draw_equal_finite_differences():
    real = torch.randn(8, 2)
    adversarial = AdversarialLoss(Mlp(), r1=1.0, gp=1.0, finite_difference=0.1)
    once, again = (
        adversarial(real=real, fake=real + 1, rng=torch.Generator().manual_seed(3))[
            "total"
        ].detach()
        for _ in "ab"
    )
    assert float(once) == float(again)


@pytest.mark.parametrize("name", objectives.by_name())
def test_each_player_trains_itself_only(name):
    generator, discriminator = nn.Linear(2, 2), Mlp()
    adversarial = AdversarialLoss(discriminator, objectives.objective(name), r1=0.1, r2=0.1, gp=0.1)
    real = torch.randn(8, 2)
    adversarial.generator_loss(fake=generator(real), real=real).backward()
    assert all(g is None for g in grads(discriminator))
    assert all(g is not None and g.abs().sum() > 0 for g in grads(generator))
    generator.zero_grad()
    adversarial(real=real, fake=generator(real))["total"].backward()
    assert all(g is None for g in grads(generator))
    assert sum(float(g.abs().sum()) for g in grads(discriminator) if g is not None) > 0


def test_the_discriminator_is_trainable_again_after_lending_its_loss_even_if_that_fails():
    discriminator = Mlp()
    discriminator.net[0].bias.requires_grad_(False)
    before = [p.requires_grad for p in discriminator.parameters()]
    adversarial = AdversarialLoss(discriminator)
    with pytest.raises(ValueError, match="one shape"):
        adversarial.generator_loss(fake=torch.zeros(3, 2), real=torch.zeros(4, 2))
    with pytest.raises(RuntimeError, match="x"), frozen(discriminator):
        raise RuntimeError("x")
    assert [p.requires_grad for p in discriminator.parameters()] == before


def test_the_real_batch_gets_no_gradient_from_the_generators_loss():
    real, fake = torch.randn(4, 2, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    AdversarialLoss(Linear()).generator_loss(fake=fake, real=real).backward()
    assert real.grad is None
    assert fake.grad is not None


def test_noise_level_and_label_reach_the_discriminator_in_both_losses():
    discriminator = Linear()
    discriminator.labels.weight.data.copy_(torch.tensor([[0.0], [5.0], [-5.0]]))
    adversarial = AdversarialLoss(discriminator, objectives.wasserstein)
    x, sigma, label = torch.zeros(2, 2), torch.tensor([0.0, 3.0]), torch.tensor([1, 2])
    x.requires_grad_(True)
    assert float(
        adversarial(real=x, fake=x, sigma=sigma, label=label)["logit_real"]
    ) == pytest.approx((5 + 6 - 5) / 2)
    assert adversarial.generator_loss(fake=x, sigma=sigma, label=label).item() == pytest.approx(-3)
    assert adversarial.generator_loss(fake=x).item() == 0


@pytest.mark.parametrize("extra", [{}, {"finite_difference": 0.01}])
def test_under_bf16_autocast_a_penalised_discriminator_computes_in_float32(extra):
    real, fake = torch.randn(16, 2), torch.randn(16, 2, requires_grad=True)
    adversarial = AdversarialLoss(Mlp(), r1=0.1, r2=0.1, **extra)

    def parts():
        return adversarial(real=real, fake=fake, rng=torch.Generator().manual_seed(0))

    plain = parts()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = parts()
        lent = adversarial.generator_loss(fake=fake, real=real)
    for name, value in plain.items():
        torch.testing.assert_close(mixed[name], value, rtol=0, atol=0)
    assert lent.dtype == torch.float32


def test_without_penalties_autocast_stays_on_and_the_loss_is_float32():
    seen = []

    class Spy(Mlp):
        def forward(self, x, sigma, label=None):
            out = super().forward(x, sigma, label)
            seen.append(out.dtype)
            return out

    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = AdversarialLoss(Spy())(real=torch.randn(4, 2), fake=torch.randn(4, 2))["total"]
    assert seen == [torch.bfloat16]
    assert total.dtype == torch.float32


@pytest.mark.parametrize("logit", [13.0, -13.0, 40.0, -40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_the_log_ratio_is_one_at_any_confidence(logit, dtype):
    """Raw logits: no sigmoid stands between a sample and the discriminator's opinion of it."""
    discriminator = Linear(torch.tensor([1.0]), dtype=dtype)
    x = torch.full((1, 1), logit, dtype=dtype, requires_grad=True)
    AdversarialLoss(discriminator, objectives.wasserstein).generator_loss(fake=x).backward()
    assert float(x.grad) == -1
    x.grad = None
    AdversarialLoss(discriminator, objectives.non_saturating).generator_loss(fake=x).backward()
    assert float(x.grad) == pytest.approx(-1 / (1 + math.exp(logit)), rel=1e-2)


def test_accumulating_four_quarters_gives_the_gradient_of_the_whole():
    torch.manual_seed(0)
    whole = AdversarialLoss(Mlp().double(), r1=0.1, r2=0.3)
    parts = copy.deepcopy(whole)
    real, fake = torch.randn(16, 2).double(), torch.randn(16, 2).double()
    whole(real=real, fake=fake)["total"].backward()
    for r, f in zip(real.chunk(4), fake.chunk(4), strict=True):
        (parts(real=r, fake=f)["total"] / 4).backward()
    for a, b in zip(grads(whole), grads(parts), strict=True):
        torch.testing.assert_close(a, b)


def test_augmentation_is_seen_by_the_discriminator_and_passed_through_by_the_penalty():
    adversarial = AdversarialLoss(Linear(), r1=1.0, augment=lambda x: 2 * x)
    x = torch.ones(4, 2, requires_grad=True)
    parts = adversarial(real=x, fake=x)
    assert float(parts["r1"]) == pytest.approx(4 * 25)
    assert float(parts["logit_real"]) == pytest.approx(2 * -1)
    lent = AdversarialLoss(Linear(), objectives.wasserstein, augment=lambda x: 2 * x)
    assert lent.generator_loss(fake=x).item() == pytest.approx(2)


class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(1, 1, 3)

    def forward(self, x):
        return self.net(x)


def test_a_discriminator_that_knows_neither_sigma_nor_label_is_told_how_to_join():
    with pytest.raises(ValueError, match=r"wrap .* hybridgen\.Unconditional\(discriminator\)"):
        AdversarialLoss(Patches())


def test_the_adapter_hands_the_map_of_patches_on():
    discriminator, x = Patches(), torch.randn(5, 1, 8, 8)
    assert torch.equal(Unconditional(discriminator)(x, torch.zeros(5), None), discriminator(x))
    AdversarialLoss(Unconditional(discriminator), r1=0.1)(real=x, fake=x)["total"].backward()
    assert discriminator.net.weight.grad is not None


def test_a_discriminator_that_reduces_over_the_batch_is_refused():
    loss, x = AdversarialLoss(Unconditional(nn.Flatten(0))), torch.zeros(3, 2)
    with pytest.raises(ValueError, match="do not reduce over the batch"):
        loss(real=x, fake=x)


class Pair(Mlp):
    def forward(self, x, sigma, label=None):
        return x


def labelled(label, fake_label, **penalties):
    """The loss of three samples of either half with labels of their own."""
    label = None if label is None else torch.tensor(label)
    x = torch.zeros(3, 2)
    loss = AdversarialLoss(Mlp(), **penalties)
    return loss(real=x, fake=x, label=label, fake_label=torch.tensor(fake_label))


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (
            lambda: AdversarialLoss(Pair())(real=torch.zeros(3, 2), fake=torch.zeros(3, 2)),
            r"\[6, 2\] may be classes or patches",
        ),
        (
            lambda: AdversarialLoss(Mlp())(real=torch.zeros(3, 2), fake=torch.zeros(4, 2)),
            r"\[3, 2\].*\[4, 2\]",
        ),
        (lambda: labelled(None, [0, 1, 2]), "got fake_label and label None: give both"),
        (
            lambda: labelled([0, 1, 2], [0, 1]),
            r"fake_label must have one row for each of 3 samples, \[3 \.\.\.\], got \[2\]",
        ),
        (lambda: labelled([0, 1, 2], [2, 1, 0], gp=1.0), "got fake_label and gp=1.0: give both"),
        (lambda: AdversarialLoss(Mlp()).generator_loss(fake=leaf(3, 2)), "real=None"),
        (lambda: AdversarialLoss(Mlp(), r1=-1.0), "r1 must be finite and >= 0, got -1.0"),
        (lambda: AdversarialLoss(Mlp(), r2=math.nan), "r2 must be finite"),
        (lambda: AdversarialLoss(Mlp(), gp=math.inf), "gp must be finite"),
        (lambda: AdversarialLoss(Mlp(), finite_difference=0.0), "finite_difference"),
        (
            lambda: AdversarialLoss(Mlp(), finite_difference=0.1, augment=nn.Identity()),
            "leave out finite_difference or augment",
        ),
        (
            lambda: AdversarialLoss(Unconditional(nn.Sequential(nn.BatchNorm1d(2)))),
            r"'discriminator\.0' is a BatchNorm1d.*GroupNorm",
        ),
    ],
)
def test_misuse_gets_a_sentence(misuse, sentence):
    with pytest.raises(ValueError, match=sentence):
        misuse()


@pytest.mark.parametrize("penalty", [{"r1": 0.1}, {"r2": 0.1}, {"gp": 1.0}])
def test_a_discriminator_with_fused_attention_can_be_penalised(penalty):
    torch.manual_seed(0)
    discriminator, real, fake = Attentive(), torch.randn(4, 1, 4, 4), torch.randn(4, 1, 4, 4)
    AdversarialLoss(discriminator, **penalty)(real=real, fake=fake)["total"].backward()
    assert all(bool(torch.isfinite(grad).all()) for grad in grads(discriminator))
    assert float(discriminator.entry.weight.grad.norm()) > 0


class Steep(nn.Module):
    """`logit = (1 + sigma + label) |x|^2 / 2`, whose slope is that many times x."""

    def forward(self, x, sigma, label=None):
        return (1 + sigma + (0 if label is None else label)) * x.square().sum(1) / 2


@pytest.mark.parametrize("penalty", ["r1", "r2", "gp"])
@pytest.mark.parametrize("finite_difference", [None, 1e-3])
def test_every_penalty_is_of_the_slope_at_the_level_and_with_the_label(penalty, finite_difference):
    x, sigma, label = (
        torch.full((3, 1), 2.0),
        torch.tensor([0.0, 1.0, 4.0]),
        torch.tensor([0, 1, 2]),
    )
    loss = AdversarialLoss(Steep(), finite_difference=finite_difference, **{penalty: 1.0})
    rng = torch.Generator().manual_seed(0)
    wide = [t.repeat_interleave(20_000, 0) for t in (x, sigma, label)]
    slopes = 2 * (1 + sigma + label)
    expected = ((slopes - 1) if penalty == "gp" else slopes).square().mean()
    measured = loss(real=wide[0], fake=wide[0], sigma=wide[1], label=wide[2], rng=rng)[penalty]
    assert float(measured) == pytest.approx(float(expected), rel=0.03)


@pytest.mark.parametrize("step", [0.01, 1.0, 30.0])
def test_the_game_is_played_where_the_samples_are_and_not_where_differences_are_taken(step):
    real, fake = torch.randn(16, 2), torch.randn(16, 2) + 1
    exact = AdversarialLoss(Linear(), r1=1.0)(real=real, fake=fake)
    moved = AdversarialLoss(Linear(), r1=1.0, finite_difference=step)(real=real, fake=fake)
    for name in ("adversarial", "logit_real", "logit_fake", "sign_accuracy"):
        torch.testing.assert_close(moved[name], exact[name])
