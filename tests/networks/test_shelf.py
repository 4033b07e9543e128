"""What holds for every discriminator on the shelf."""

import json
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from hybridgen.errors import InputError
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.maths import objectives
from hybridgen.networks.audio import (
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiStftDiscriminator,
)
from hybridgen.networks.build import load_network
from hybridgen.networks.patch import PatchDiscriminator
from hybridgen.networks.pixel import PixelDiscriminator
from hybridgen.networks.residual import ResidualDiscriminator
from hybridgen.protocols import Answer

SHELF = {
    "patches of sound": (partial(PatchDiscriminator, dims=1, depth=2), (2, 31)),
    "patches": (partial(PatchDiscriminator, depth=1, norm="none"), (3, 11, 14)),
    "patches of a small latent": (partial(PatchDiscriminator, depth=1, scales=2), (4, 16, 11)),
    "patches of a latent": (partial(PatchDiscriminator, depth=1, norm="weight"), (16, 8, 8)),
    "patches of a volume": (
        partial(PatchDiscriminator, dims=3, depth=1, scales=2),
        (1, 11, 12, 13),
    ),
    "pixels": (partial(PixelDiscriminator, depth=2), (3, 9, 14)),
    "pixels of sound": (partial(PixelDiscriminator, dims=1, norm="weight"), (1, 27)),
    "pixels of a volume": (partial(PixelDiscriminator, dims=3, depth=1, norm="none"), (2, 3, 4, 5)),
    "periods": (partial(MultiPeriodDiscriminator, periods=(2, 5)), (2, 67)),
    "scales of sound": (partial(MultiScaleDiscriminator, scales=2), (1, 99)),
    "spectrograms": (partial(MultiStftDiscriminator, windows=(16, 9)), (2, 45)),
}
EACH = pytest.mark.parametrize("kind", SHELF)


def make(kind, **options):
    """A small network, its parameters moved so that what starts at zero is seen too."""
    build, shape = SHELF[kind]
    network = build(channels=shape[0], width=4, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def inputs(kind, batch=3, dtype=torch.float32):
    x = torch.randn(batch, *SHELF[kind][1], dtype=dtype)
    return x, torch.rand(batch, dtype=dtype) + 0.1, torch.arange(batch) % 3


def flat(answer):
    """All logits of each sample, `[b n]`."""
    maps = [answer] if isinstance(answer, torch.Tensor) else answer
    assert all(logits.shape[1] == 1 and logits.ndim > 2 for logits in maps)
    return torch.cat([logits.flatten(1) for logits in maps], dim=1)


@EACH
def test_an_answer_depends_on_its_own_sample_alone(kind):
    network = make(kind, classes=3, noise_conditional=True).double().eval()
    batch = inputs(kind, dtype=torch.float64)
    alone = [flat(network(*(part[i : i + 1] for part in batch))) for i in range(3)]
    torch.testing.assert_close(flat(network(*batch)), torch.cat(alone))
    assert flat(network(*batch)).std(0).min() > 1e-4


@EACH
def test_every_parameter_is_used_and_every_entry_of_a_sample_counts(kind):
    network = make(kind, classes=3, noise_conditional=True)
    x, sigma, label = inputs(kind)
    x.requires_grad_(True)
    flat(network(x, sigma, label)).pow(2).sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not idle
    last = x.shape[-1] - SHELF[kind][1][-1] % 4 if kind == "spectrograms" else None
    assert x.grad[..., :last].ne(0).float().mean() > 0.9


@EACH
def test_a_penalty_on_the_gradient_has_the_slope_that_differences_show(kind):
    torch.manual_seed(0)  # the penalty jumps where a LeakyReLU bends, rarely within a step
    network = make(kind, classes=3, noise_conditional=True).double().eval()
    x, sigma, label = inputs(kind, 2, torch.float64)
    x.requires_grad_(True)
    parameters = [p for p in network.parameters() if p.ndim > 1]

    def penalty():
        logits = flat(network(x, sigma, label))
        return torch.autograd.grad(logits.sum(), x, create_graph=True)[0].square().sum()

    gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    directions = [torch.randn_like(p) for p in parameters]
    pairs = zip(gradients, directions, strict=True)
    exact = sum((g * d).sum() for g, d in pairs if g is not None)
    sides = []
    for step in (1e-7, -2e-7):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=step)
        sides.append(penalty().item())
    torch.testing.assert_close((sides[0] - sides[1]) / 2e-7, exact.item(), rtol=1e-4, atol=1e-5)


@EACH
def test_without_noise_a_conditional_one_is_the_plain_one_and_with_noise_that_of_unit_scale(kind):
    build, shape = SHELF[kind]
    torch.manual_seed(0)
    plain = build(channels=shape[0], width=4).eval()
    conditional = build(channels=shape[0], width=4, noise_conditional=True).eval()
    conditional.load_state_dict(plain.state_dict(), strict=False)
    x, sigma = torch.randn(3, *shape), torch.tensor([0.0, 0.5, 80.0])
    scale = (1 + sigma.square()).rsqrt().reshape(3, *[1] * len(shape))
    expected = flat(plain(x * scale))
    torch.testing.assert_close(flat(conditional(x, sigma)), expected, rtol=1e-4, atol=1e-5)
    nn.init.normal_(next(p for n, p in conditional.named_parameters() if "noise.linear.w" in n))
    assert (flat(conditional(x, sigma)) - expected).abs().amax(1).min() > 1e-4


@EACH
def test_a_label_adds_its_own_kernel_to_the_last_one(kind):
    network = make(kind, classes=3).eval()
    x, sigma, label = inputs(kind)
    answers = [flat(network(x, sigma, torch.full((3,), c))) for c in range(3)]
    chosen = torch.stack([answers[c][i] for i, c in enumerate(label)])
    torch.testing.assert_close(flat(network(x, sigma, label)), chosen)
    distances = [(a - b).abs().amax(1).min() for a, b in pairwise([*answers, answers[0]])]
    assert min(distances) > 1e-3
    heads = [m for m in network.modules() if hasattr(m, "convolution")]
    inside = []
    for head in heads:
        head.convolution.register_forward_hook(lambda module, args, out: inside.append(out))
    network(x, sigma, label)
    expected = [maps[:, :1] + maps[torch.arange(3), 1 + label].unsqueeze(1) for maps in inside]
    torch.testing.assert_close(flat(network(x, sigma, label)), flat(expected))
    for wrong in (torch.tensor([0, -1, 1]), torch.tensor([0, 3, 1])):
        with pytest.raises((IndexError, RuntimeError)):
            network(x, sigma, wrong)
    for wrong in (None, label.float(), label[:2]):
        with pytest.raises(ValueError, match="label"):
            network(x, sigma, wrong)
    with pytest.raises(ValueError, match="classes=0 but got labels"):
        make(kind)(x, sigma, label)


@EACH
def test_features_are_the_hidden_layers_of_each_discriminator(kind):
    network = make(kind, features=True).eval()
    x, sigma, _ = inputs(kind)
    answer = network(x, sigma)
    assert isinstance(answer, Answer)
    single = isinstance(answer.logits, torch.Tensor)
    layers = [answer.features] if single else answer.features
    assert len(layers) == (1 if single else len(answer.logits))
    for features in layers:
        assert len(features) >= 2
        assert all(feature.shape[0] == 3 and feature.ndim > 2 for feature in features)
        assert all(feature.requires_grad for feature in features)
    plain = make(kind).eval()
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(flat(plain(x, sigma)), flat(answer.logits), rtol=0, atol=0)


@EACH
def test_the_loss_plays_with_each_patch_of_each_discriminator_and_penalises_them_alike(kind):
    network = make(kind, classes=3, noise_conditional=True, features=True).double().eval()
    adversarial = AdversarialLoss(network, objectives.hinge, r1=0.1)
    real, sigma, label = inputs(kind, dtype=torch.float64)
    fake = torch.randn_like(real).requires_grad_(True)
    losses = adversarial(real=real, fake=fake, sigma=sigma, label=label)
    real.requires_grad_(True)
    on_real, on_fake = (network(x, sigma, label) for x in (real, fake))
    several = [on_real.logits, on_fake.logits]
    if isinstance(on_real.logits, torch.Tensor):
        several = [[logits] for logits in several]
    games, penalties = [], []
    for r, f in zip(*several, strict=True):
        games.append((1 - r).relu().mean() + (1 + f).relu().mean())
        (slope,) = torch.autograd.grad(r.sum(), real, retain_graph=True)
        penalties.append(slope.square().sum() / len(real) / r[0].numel())
    torch.testing.assert_close(losses["adversarial"], torch.stack(games).mean())
    torch.testing.assert_close(losses["r1"], torch.stack(penalties).mean())
    torch.testing.assert_close(losses["total"], losses["adversarial"] + 0.05 * losses["r1"])
    lent = adversarial.generator_losses(fake=fake, real=real.detach(), sigma=sigma, label=label)
    expected = torch.stack([-f.mean() for f in several[1]]).mean()
    torch.testing.assert_close(lent["adversarial"], expected)
    (gradient,) = torch.autograd.grad(lent["feature_matching"], fake)
    assert lent["feature_matching"] > 0 and gradient.abs().sum() > 0


# One of each class: the vectors of a spectral norm are slow to make without memory.
@pytest.mark.parametrize(
    "kind",
    [
        *("patches of a small latent", "pixels of a volume"),
        *("periods", "scales of sound", "spectrograms"),
    ],
)
def test_it_is_saved_and_comes_back_bit_for_bit(kind, tmp_path):
    network = make(kind, classes=3, noise_conditional=True)
    batch = inputs(kind)
    network(*batch)  # in training mode, where the vectors of a spectral norm move
    network.eval().save_pretrained(tmp_path)
    again = load_network(tmp_path)
    assert type(again) is type(network)
    weights = again.state_dict()
    assert weights.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(weights[name], value)
    again.load_state_dict(network.state_dict())  # loaded memory may be aligned otherwise
    torch.testing.assert_close(flat(again(*batch)), flat(network(*batch)), rtol=1e-6, atol=1e-6)


@EACH
def test_samples_of_another_shape_get_a_sentence(kind):
    network = make(kind)
    x, sigma, _ = inputs(kind)
    channels = torch.cat([x, x], dim=1)
    for wrong in (channels, x[..., :0], x[..., None], x[..., 0]):
        with pytest.raises(ValueError, match="this discriminator expects") as error:
            network(wrong, sigma)
        assert len(str(error.value)) <= 300


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 0}, "width is 0, but must be at least 1"),
        ({"classes": -1}, "classes is -1"),
        ({"channels": 0}, "channels is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"scales": 0}, "scales is 0"),
        ({"periods": (2, 0)}, "periods is 0"),
        ({"periods": ()}, "periods is empty"),
        ({"windows": (3,)}, "at least 4 samples"),
        ({"dims": 4}, "dims is 4, expected 1"),
        (
            {"norm": "batch"},
            "no normalisation 'batch' of weights; there are spectral, weight, none",
        ),
        ({"condition_channels": -1}, "condition_channels is -1"),
        ({"activation": "relu"}, "no activation 'relu'"),
    ],
)
def test_settings_that_cannot_be_get_a_sentence(options, sentence):
    refused = 0
    for build in {build.func for build, _ in SHELF.values()}:
        if options.keys() <= set(build.__init__.__wrapped__.__kwdefaults__):
            refused += 1
            with pytest.raises(InputError, match=sentence):
                build(**options)
    assert refused


def test_more_scales_than_weights_are_refused_before_they_are_built(tmp_path):
    make("patches").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"scales": 10**6}))
    with pytest.raises(InputError, match="scales is 1e"):
        load_network(tmp_path)


@EACH
def test_a_spectral_norm_of_one_bounds_each_layer_after_a_few_steps(kind):
    network = make(kind)
    normalised = [m for m in network.modules() if nn.utils.parametrize.is_parametrized(m)]
    spectral = [m for m in normalised if hasattr(m.parametrizations.weight[0], "_u")]
    for _ in range(100):
        for module in spectral:
            _ = module.weight
    for module in spectral:
        largest = torch.linalg.matrix_norm(module.weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=1e-2)
    assert bool(spectral) == (
        getattr(network.config, "norm", None) == "spectral" or "scales" in kind
    )


@pytest.mark.parametrize("channels", [4, 16])
def test_latents_of_any_channels_have_a_conditional_discriminator_with_one_logit(
    channels, tmp_path
):
    network = ResidualDiscriminator(
        resolution=8, channels=channels, width=4, depth=1, classes=3, noise_conditional=True
    ).eval()
    nn.init.normal_(network.noise.linear.weight)
    x, sigma, label = torch.randn(2, channels, 8, 8), torch.rand(2), torch.tensor([0, 2])
    logits = network(x, sigma, label)
    assert logits.shape == (2,)
    assert (logits - network(x, sigma + 1, label)).abs().min() > 1e-5
    assert (logits - network(x, sigma, label.flip(0))).abs().min() > 1e-5
    network.save_pretrained(tmp_path)
    assert torch.equal(load_network(tmp_path)(x, sigma, label), logits)
