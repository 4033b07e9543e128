"""Augmentation of what the discriminator sees."""

import sys

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridgen.data.augment import Augment, AugmentSettings
from hybridgen.errors import InputError


def images(count: int = 16, channels: int = 1, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, side, side, generator=generator) * 2 - 1


def changed(strength: float, x: torch.Tensor, seed: int = 0, **options: bool) -> torch.Tensor:
    augment = Augment(AugmentSettings(strength=strength, **options))
    return augment(x, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_strength_zero_changes_nothing(channels: int) -> None:
    x = images(channels=channels)
    assert torch.equal(changed(0.0, x, flips=True), x)


@pytest.mark.parametrize("channels", [1, 3])
def test_strength_one_changes_every_image(channels: int) -> None:
    x = images(channels=channels)
    y = changed(1.0, x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert (y != x).flatten(1).any(1).all()
    assert not torch.equal(y, changed(1.0, x, seed=1))


def test_an_image_stays_itself_with_the_probability_of_no_operation() -> None:
    x = images(4_000, side=4)
    same = (changed(0.3, x) == x).flatten(1).all(1).float().mean()
    assert abs(float(same) - 0.7**5) < 0.03


def test_images_are_changed_one_by_one() -> None:
    x = images(1).expand(8, -1, -1, -1)
    assert len({tuple(y.flatten().tolist()) for y in changed(1.0, x)}) == 8


def test_flips_mirror_half_of_the_images_and_only_when_wanted() -> None:
    x = torch.linspace(-1, 1, 9).expand(2_000, 1, 9, 9)  # brighter to the right

    def mirrored(y: torch.Tensor) -> float:
        return float((y[:, 0, 4, -2] < y[:, 0, 4, 1]).float().mean())

    assert mirrored(changed(1.0, x)) == 0
    assert abs(mirrored(changed(1.0, x, flips=True)) - 0.5) < 0.05


def test_shift_turn_and_zoom_have_the_stated_spread() -> None:
    side, count = 65, 1_500
    axis = torch.arange(side) - (side - 1) / 2
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    blob = torch.exp(-(columns**2) / 50 - rows**2 / 18).expand(count, 1, side, side)
    y = (changed(1.0, blob) - changed(1.0, torch.zeros_like(blob)))[:, 0]
    weight = y / y.sum((1, 2), keepdim=True)
    across, down = (weight * columns).sum((1, 2)), (weight * rows).sum((1, 2))
    for centre in (across, down):
        assert centre.abs().max() <= side / 8 + 0.2
        assert abs(float(centre.std()) / (side / 8 / 3**0.5) - 1) < 0.06
        assert abs(float(centre.mean())) < 0.4
    assert abs(float(torch.corrcoef(torch.stack([across, down]))[0, 1])) < 0.1
    xx = (weight * columns**2).sum((1, 2)) - across**2
    yy = (weight * rows**2).sum((1, 2)) - down**2
    xy = (weight * rows * columns).sum((1, 2)) - across * down
    zoom = torch.log2((xx * yy - xy**2) / (25 * 9)) / 4
    assert abs(float(zoom.std()) - 0.2) < 0.02
    assert abs(float(zoom.mean())) < 0.03
    turn = torch.rad2deg(torch.atan2(2 * xy, xx - yy) / 2)
    # Quantiles: in the smallest zooms the mirrored blob at the edge pulls at the moments.
    for share in (0.25, 0.5, 0.75, 0.97):
        assert abs(float(turn.abs().quantile(share)) - 15 * share) < 0.7
    assert abs(float(turn.median())) < 1


def test_contrast_and_brightness_have_the_stated_spread() -> None:
    flat = torch.zeros(2_000, 1, 4, 4)
    brightness = changed(1.0, flat).flatten(1).mean(1)
    contrast = (changed(1.0, flat + 1) - changed(1.0, flat)).flatten(1).mean(1)
    assert abs(float(brightness.std()) - 0.2) < 0.02
    assert abs(float(brightness.mean())) < 0.02
    assert abs(float(contrast.log2().std()) - 0.5) < 0.05
    assert abs(float(contrast.log2().mean())) < 0.05


def test_it_can_be_differentiated_twice() -> None:
    x = images(3, channels=3, side=5).double().requires_grad_()
    augment = Augment(AugmentSettings(strength=1.0, flips=True)).double()

    def squared(x: torch.Tensor) -> torch.Tensor:
        y = augment(x, torch.Generator().manual_seed(0))
        return (y**2).flatten(1).sum(1)

    (first,) = torch.autograd.grad(squared(x).sum(), x, create_graph=True)
    direction = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    (second,) = torch.autograd.grad((first * direction).sum(), x)
    # For the linear part A of an affine map the Hessian of |A x + c|^2 is 2 A'A.
    linear = squared(x + direction) + squared(x - direction) - 2 * squared(x)
    assert torch.allclose((second * direction).flatten(1).sum(1), linear, rtol=1e-3)
    assert (second != 0).flatten(1).any(1).all()


def test_a_penalty_through_it_trains_the_discriminator() -> None:
    discriminator = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(144, 1)
    )
    x = images().requires_grad_()
    logits = rearrange(discriminator(Augment(AugmentSettings(strength=0.7))(x)), "b 1 -> b")
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert all(p.grad is not None for p in discriminator[0].parameters())
    assert discriminator[0].weight.grad.abs().sum() > 0


def test_values_beyond_the_range_keep_their_gradient() -> None:
    x = (images() * 3).requires_grad_()
    changed(1.0, x).sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().flatten(1).sum(1) > 0).all()


@pytest.mark.parametrize(("sign", "direction"), [(0.9, 1), (0.2, -1), (0.6, 0)])
def test_an_adaptive_strength_moves_towards_the_target(sign: float, direction: int) -> None:
    augment = Augment(AugmentSettings(strength=0.5, adaptive=True, speed_images=1_000))
    augment.update(sign, 100)
    assert float(augment.strength) == pytest.approx(0.5 + direction * 0.1)


@settings(deadline=None)
@given(signs=st.lists(st.floats(-1, 1), max_size=30))
def test_the_strength_stays_a_probability(signs: list[float]) -> None:
    augment = Augment(AugmentSettings(adaptive=True, speed_images=300))
    for sign in signs:
        augment.update(sign, 64)
        assert 0 <= float(augment.strength) <= 1


def test_a_fixed_strength_does_not_move() -> None:
    augment = Augment(AugmentSettings(strength=0.5))
    augment.update(1.0, 10**9)
    assert float(augment.strength) == 0.5


def test_an_adaptive_strength_is_saved_and_restored() -> None:
    settings = AugmentSettings(adaptive=True, speed_images=1_000)
    augment, other = Augment(settings), Augment(settings)
    augment.update(1.0, 123)
    other.load_state_dict(augment.state_dict())
    assert torch.equal(other.strength, augment.strength)
    x = images()
    first = augment(x, torch.Generator().manual_seed(3))
    assert torch.equal(other(x, torch.Generator().manual_seed(3)), first)
    assert not list(augment.parameters())


@pytest.mark.parametrize(("sign", "count"), [(1.5, 1), (float("nan"), 1), (0.0, -1)])
def test_impossible_observations_are_refused(sign: float, count: int) -> None:
    with pytest.raises(ValueError, match="sign_accuracy in"):
        Augment(AugmentSettings(adaptive=True)).update(sign, count)


@pytest.mark.parametrize("bad", [{"strength": 1.1}, {"target": 1.0}, {"speed_images": 0}])
def test_impossible_settings_are_refused(bad: dict) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        AugmentSettings(**bad)


def test_points_are_refused() -> None:
    with pytest.raises(ValueError, match="images"):
        Augment(AugmentSettings())(torch.zeros(3, 2))


def test_without_kornia_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(InputError, match=r"pip install 'hybridgen\[augment\]'"):
        Augment(AugmentSettings())
