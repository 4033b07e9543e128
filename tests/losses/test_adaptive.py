"""Adaptive weights and balanced losses against closed forms; see also
test_importing_the_loss.py, and training/test_two_processes.py for several processes."""

import copy
import math

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from hybridgen import AdversarialWeight, LossBalancer, adaptive_weight


@pytest.fixture
def pieces():
    """A linear last layer `[3 4]`, and what the losses do to its two outputs' three entries."""
    generator = torch.Generator().manual_seed(0)
    h, a, b = (torch.randn(2, n, generator=generator, dtype=torch.float64) for n in (4, 3, 3))
    weight = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    return weight, h, a, b


def test_on_a_linear_last_layer_it_is_the_ratio_of_the_norms_of_two_outer_products(pieces):
    weight, h, a, b = pieces
    out = h @ weight.T
    found = adaptive_weight((out * a).sum(), 0.01 * (out * b).sum(), weight)
    expected = (a.T @ h).norm() / (0.01 * (b.T @ h).norm() + 1e-4)
    assert not found.requires_grad
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_at_the_output_it_is_the_ratio_of_the_gradients_there(pieces):
    weight, h, a, b = pieces
    out = h @ weight.T
    found = adaptive_weight((out * a).sum(), (out * b).sum(), output=out)
    assert float(found) == pytest.approx(float(a.norm() / (b.norm() + 1e-4)), rel=1e-12)


def adaptive_parts(weight, h, a, b):
    out = h @ weight.T
    return (out * a).sum(), (out * b).sum()


@pytest.mark.parametrize("scale", [1e2, 1e6])
def test_the_weighted_game_is_the_same_however_the_game_is_scaled(pieces, scale):
    weight, h, a, b = pieces
    main, game = adaptive_parts(weight, h, a, b)
    once = adaptive_weight(main, 10 * game, weight) * 10 * game
    scaled = adaptive_weight(main, scale * game, weight, limit=1e9) * scale * game
    assert float(scaled.detach()) == pytest.approx(float(once.detach()), rel=1e-4)


def test_a_frozen_last_layer_gets_a_sentence_and_an_adapters_output_the_right_weight(pieces):
    weight, h, a, b = pieces
    frozen, low, high = weight.detach(), torch.ones(1, 4).double(), torch.ones(3, 1).double()
    out = h @ (frozen + high.requires_grad_() @ low.requires_grad_()).T
    losses = (out * a).sum(), (out * b).sum()
    with pytest.raises(ValueError, match=r"requires no gradient .*adaptive_weight\(..., output="):
        adaptive_weight(*losses, frozen)
    found = adaptive_weight(*losses, output=out)
    assert float(found) == pytest.approx(float(a.norm() / (b.norm() + 1e-4)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_it_is_finite_where_a_loss_is_not(pieces, bad, which):
    weight, h, a, b = pieces
    losses = [*adaptive_parts(weight, h, a, b)]
    losses[which] = losses[which] * bad
    for strength in (adaptive_weight, AdversarialWeight(2.0)):
        assert float(strength(*losses, weight)) == 0


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_off_it_is_zero_and_of_the_object_the_last_one(pieces, off):
    weight, h, a, b = pieces
    strength = AdversarialWeight(0.5, ramp=2)
    trained = float(strength(*adaptive_parts(weight, h, a, b), weight))
    with off():
        parts = adaptive_parts(weight, h, a, b)
        assert float(adaptive_weight(*parts, weight)) == 0
        assert float(strength(*parts, weight)) == pytest.approx(trained)
        assert float(AdversarialWeight()(*parts, weight)) == 0
        strength.step()
        assert float(strength(*parts, weight)) == pytest.approx(2 * trained)


@pytest.mark.parametrize("limit", [-1.0, math.nan, -math.inf])
def test_a_limit_that_is_none_is_refused(pieces, limit):
    weight, *others = pieces
    for call in (
        lambda: adaptive_weight(*adaptive_parts(weight, *others), weight, limit=limit),
        lambda: AdversarialWeight(limit=limit),
    ):
        with pytest.raises(ValueError, match="limit of an adaptive weight must be >= 0, got"):
            call()


def test_what_gives_no_gradient_gets_a_sentence(pieces):
    weight, h, a, b = pieces
    main, game = adaptive_parts(weight, h, a, b)
    other = torch.zeros(3, requires_grad=True)
    for arguments, sentence in (
        ((main, game), "give one of them"),
        ((main, game, other), "loss does not depend on the tensor"),
        ((main, game.detach(), weight), "adversarial does not depend on the tensor"),
        ((main[None].expand(2), game, weight), "loss must be a scalar, got .*2"),
    ):
        with pytest.raises(ValueError, match=sentence):
            adaptive_weight(*arguments)
    with pytest.raises(ValueError, match="give one of them"):
        adaptive_weight(main, game, weight, output=other)
    with pytest.raises(ValueError, match="loss does not depend"):
        adaptive_weight(main, game, output=h @ weight.T)


def test_the_weight_is_that_of_vqgan_from_its_start_on(pieces):
    """taming-transformers: `d_weight * disc_factor` with `adopt_weight(step, disc_start)`."""
    weight, *others = pieces
    strength = AdversarialWeight(0.8, start=2)
    for step in range(4):
        main, game = adaptive_parts(weight, *others)
        pull, push = (
            torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (main, game)
        )
        d_weight = torch.clamp(pull.norm() / (push.norm() + 1e-4), 0.0, 1e4) * 0.8
        expected = d_weight * (0.0 if step < 2 else 1.0)
        assert float(strength(main, game, weight)) == pytest.approx(float(expected), rel=1e-6)
        strength.step()


def test_before_its_start_nothing_is_worked_out_and_without_adaption_it_is_the_schedule():
    strength = AdversarialWeight(0.8, start=1, ramp=4, adaptive=False)
    weights = []
    for _ in range(6):
        weights.append(float(strength(torch.ones(()), torch.ones(()))))
        strength.step()
    assert weights == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])
    early = AdversarialWeight(start=1)
    assert float(early(torch.ones(()), torch.ones(()), torch.ones(()))) == 0


@pytest.mark.parametrize("numbers", [{"weight": -1}, {"start": -1}, {"ramp": math.nan}])
def test_numbers_that_no_schedule_has_are_refused(numbers):
    (name,) = numbers
    with pytest.raises(ValueError, match=f"{name} must be finite and >= 0, got"):
        AdversarialWeight(**numbers)


def test_weight_and_balancer_go_on_from_what_accelerate_saved(pieces, tmp_path):
    weight, *others = pieces

    def worked():
        return AdversarialWeight(ramp=9), LossBalancer({"a": 1.0, "b": 2.0}, decay=0.5)

    def use(strength, balancer):
        main, game = adaptive_parts(weight, *others)
        out = weight * 2
        balanced = balancer({"a": out.sum(), "b": out.square().sum()}, out)
        return float(strength(main, game, weight)), float(balanced.detach())

    objects = worked()
    use(*objects)
    objects[0].step()
    accelerator, fresh = Accelerator(cpu=True), worked()
    accelerator.register_for_checkpointing(*objects)
    accelerator.save_state(tmp_path / "state")
    again = Accelerator(cpu=True)
    again._custom_objects.clear()
    again.register_for_checkpointing(*fresh)
    again.load_state(tmp_path / "state")
    assert fresh[0].steps == 1
    assert use(*fresh) == use(*objects)
    with torch.no_grad():
        assert float(fresh[0](*adaptive_parts(weight, *others))) > 0
    module = nn.ModuleDict({"strength": objects[0], "balancer": objects[1]})
    restored = nn.ModuleDict(dict(zip(("strength", "balancer"), worked(), strict=True)))
    restored.load_state_dict(copy.deepcopy(module.state_dict()))
    assert restored["strength"].steps == 1


class Encodecs:
    """audiocraft's `Balancer.backward` written out: bias-corrected running means (flashy's
    `averager`), norms a sample, shares of a total norm of 1."""

    def __init__(self, weights, decay):
        self.weights, self.decay, self.total, self.fix = weights, decay, {}, {}

    def gradient(self, losses, output):
        grads = {k: torch.autograd.grad(v, output, retain_graph=True)[0] for k, v in losses.items()}
        out, effective = torch.zeros_like(output), 0.0
        for name, grad in grads.items():
            norm = grad.norm(dim=tuple(range(1, grad.dim())), p=2).mean()
            self.total[name] = self.total.get(name, 0) * self.decay + norm
            self.fix[name] = self.fix.get(name, 0) * self.decay + 1
            share = self.weights[name] / sum(self.weights[other] for other in losses)
            scale = share / (1e-12 + self.total[name] / self.fix[name])
            out, effective = out + scale * grad, effective + scale * losses[name].detach()
        return out, effective


def test_a_balanced_gradient_is_encodecs_and_reaches_the_model_once():
    generator = torch.Generator().manual_seed(0)
    weights = {"l1": 0.1, "mel": 1.0, "adversarial": 3.0, "features": 3.0}
    balancer, original = LossBalancer(weights, decay=0.9), Encodecs(weights, 0.9)
    layer = torch.randn(5, 6, generator=generator, requires_grad=True)
    for step in range(5):
        h, target = torch.randn(2, 7, 5, generator=generator), torch.randn(7, 6)
        output = h[0] @ layer
        losses = {
            "l1": (output - target).abs().mean(),
            "mel": 1e3 * (output - target).square().mean(),
            "adversarial": 1e-4 * output.sin().mean(),
        }
        losses |= {"features": output.cos().mean()} if step % 2 else {}
        expected, effective = original.gradient(losses, output)
        balanced = balancer(losses, output)
        gradients = torch.autograd.grad(balanced, [output, layer], retain_graph=True)
        torch.testing.assert_close(gradients[0], expected, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(gradients[1], h[0].T @ expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(balanced.detach(), effective, rtol=1e-5, atol=1e-6)


def test_shares_of_the_balanced_gradient_do_not_depend_on_the_scales_of_the_losses():
    output = torch.randn(4, 3, requires_grad=True)
    a, b = torch.randn(2, 4, 3)
    norms = [x.norm(dim=1).mean() for x in (a, b)]
    for scale in (1e-3, 1e3):
        losses = {"a": scale * (output * a).sum(), "b": (output * b).sum() / scale}
        balanced = LossBalancer({"a": 1.0, "b": 3.0}, norm=2.0)(losses, output)
        (gradient,) = torch.autograd.grad(balanced, output)
        expected = 0.5 * a / norms[0] + 1.5 * b / norms[1]
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


def test_a_balancer_evaluates_without_gradients_and_keeps_its_means_from_what_is_not_finite():
    balancer = LossBalancer({"a": 1.0, "b": 1.0})
    output = torch.ones(2, 3, requires_grad=True)

    def losses():
        return {"a": 5 * output.sum(), "b": output.square().sum()}

    with torch.no_grad():
        assert float(balancer(losses(), output)) == pytest.approx((30 + 6) / 2)
    assert not balancer.sums.any()
    trained = float(balancer(losses(), output).detach())
    state = copy.deepcopy(balancer.state_dict())
    with torch.inference_mode():
        assert float(balancer(losses(), output)) == pytest.approx(trained)
    assert not math.isfinite(balancer({"a": math.nan * output.sum()}, output).detach())
    assert all(torch.equal(balancer.state_dict()[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": {"a": -1.0}}, "weights must be finite, >= 0 and not all 0"),
        ({"weights": {"a": math.nan}}, "weights must be"),
        ({"weights": {}}, "weights must be"),
        ({"weights": {"a": 1.0}, "decay": 1.0}, "decay"),
        ({"weights": {"a": 1.0}, "norm": 0.0}, "norm"),
    ],
)
def test_a_balancer_that_cannot_be_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        LossBalancer(**options)


def test_a_loss_without_a_weight_is_refused():
    output = torch.ones(1, 1, requires_grad=True)
    with pytest.raises(ValueError, match=r"losses of \['a'\], got no weight for \['b'\]"):
        LossBalancer({"a": 1.0})({"b": output.sum()}, output)
    with pytest.raises(ValueError, match="one or more losses"):
        LossBalancer({"a": 1.0})({}, output)


def test_a_loss_without_a_share_pulls_nowhere_and_is_no_number_that_is_not_one():
    output = torch.ones(2, 3, requires_grad=True)
    balanced = LossBalancer({"a": 1.0, "b": 0.0})({"b": output.sum()}, output)
    (gradient,) = torch.autograd.grad(balanced, output)
    assert float(balanced.detach()) == 0 and not gradient.any()


def test_a_share_of_zero_contributes_nothing_whatever_its_loss_is():
    balancer = LossBalancer({"a": 1.0, "b": 0.0})
    output = torch.ones(2, requires_grad=True)
    loss = balancer({"a": output.sum(), "b": math.inf * output.sum()}, output)
    (gradient,) = torch.autograd.grad(loss, output)
    assert loss.isfinite() and gradient.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("weight", [-3.0, math.nan])
def test_a_weight_that_is_set_later_is_checked(weight):
    strength = AdversarialWeight(1.0)
    strength.weight = weight
    with pytest.raises(ValueError, match="weight must be finite"):
        print(strength.scheduled)
