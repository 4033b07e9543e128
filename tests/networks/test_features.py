import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn

from hybridgen.errors import InputError
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.networks.build import load_network
from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser
from hybridgen.networks.features import EncoderDiscriminator, FeatureDiscriminator
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.sampling.pretrained import DiffusersDenoiser


def backbone():
    """Batch normalisation with statistics of its own, and two layers worth a head."""
    layers = OrderedDict(
        wide=nn.Conv2d(3, 4, 3, padding=1),
        norm=nn.BatchNorm2d(4),
        act=nn.ReLU(),
        narrow=nn.Conv2d(4, 6, 3, stride=2),
        flat=nn.Flatten(),
    )
    network = nn.Sequential(layers)
    for _ in range(20):
        network(torch.randn(8, 3, 9, 9) * 2 + 1)
    return network


def discriminator(network=None, **options):
    network = backbone() if network is None else network
    return FeatureDiscriminator(
        network=network, **{"channels": (4, 6), "layers": ("act", "narrow"), "width": 5} | options
    )


@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
def test_every_layer_has_a_head_of_two_linear_maps_at_every_place(activation):
    made = discriminator(activation=activation).eval()
    x = torch.randn(2, 3, 9, 10)
    network = made.network
    first = network.act(network.norm(network.wide(x)))
    maps = made(x)
    for i, feature in enumerate((first, network.narrow(first))):
        weight, bias = made.hidden[i].weight[..., 0], made.hidden[i].bias
        h = F.linear(feature.movedim(1, -1), weight, bias)
        h = 1.2089 * F.silu(h) if activation == "silu" else F.leaky_relu(h, 0.2)
        last = made.heads[i].convolution
        expected = F.linear(h, last.weight[..., 0], last.bias).movedim(-1, 1)
        torch.testing.assert_close(maps[i], expected, rtol=1e-3, atol=1e-4)
    assert [logits.shape for logits in maps] == [(2, 1, 9, 10), (2, 1, 4, 4)]
    again = discriminator(network, features=True).eval()
    answer = again(x)
    torch.testing.assert_close([f for (f,) in answer.features], [first, network.narrow(first)])


def test_the_network_stays_as_it_is_and_gradients_pass_it():
    made = discriminator()
    before = copy.deepcopy(made.network.state_dict())
    made.train()
    x = torch.randn(4, 3, 9, 9, requires_grad=True)
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    sum(logits.sum() for logits in made(x)).backward()
    optimizer.step()
    assert made.training and not any(part.training for part in made.network.modules())
    assert x.grad.ne(0).all()
    assert all(parameter.grad is None for parameter in made.network.parameters())
    for name, value in made.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is not None for p in made.parameters())
    trained = sum(p.numel() for p in made.parameters())
    assert trained == (4 + 6) * 5 + 2 * 5 + 2 * (5 + 1)


def test_only_the_heads_are_saved_and_the_network_is_given_again(tmp_path):
    network = backbone()
    made = discriminator(network, classes=3, noise_conditional=True)
    assert all(name.startswith(("hidden.", "heads.", "noise.")) for name in made.state_dict())
    made.eval().save_pretrained(tmp_path)
    again = FeatureDiscriminator.from_pretrained(tmp_path, network=network)
    batch = torch.randn(3, 3, 9, 9), torch.rand(3), torch.tensor([0, 2, 1])
    for name, value in made.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    torch.testing.assert_close(again(*batch), made(*batch))
    assert dict(again.config)["layers"] == ("act", "narrow")


def test_the_network_moves_with_the_heads():
    made = discriminator().double()
    assert made.network.wide.weight.dtype == torch.float64
    assert made(torch.randn(2, 3, 9, 9).double())[0].dtype == torch.float64


def test_noise_rescales_the_sample_and_biases_the_heads():
    plain = discriminator().eval()
    made = discriminator(plain.network, noise_conditional=True).eval()
    made.load_state_dict(plain.state_dict(), strict=False)
    x, sigma = torch.randn(2, 3, 9, 9), torch.full((2,), 3.0)
    expected = plain(x / 10**0.5)
    torch.testing.assert_close(made(x, sigma), expected)
    nn.init.normal_(made.noise.linear.weight)
    for logits, other in zip(made(x, sigma), expected, strict=True):
        assert (logits - other).abs().amax((1, 2, 3)).min() > 1e-3
    _, biases = made.noise(x, sigma)
    first = made.network.act(made.network.norm(made.network.wide(x / 10**0.5)))
    h = made.hidden[0](first.flatten(2)) + biases[0].unsqueeze(2)
    logits = made.heads[0](F.leaky_relu(h, 0.2), None).reshape(2, 1, 9, 9)
    torch.testing.assert_close(made(x, sigma)[0], logits)


def test_labels_choose_a_kernel_of_each_head():
    made = discriminator(classes=3).eval()
    x = torch.randn(2, 3, 9, 9)
    one, other = (made(x, None, torch.tensor(label)) for label in ([2, 0], [0, 2]))
    for logits, others in zip(one, other, strict=True):
        assert (logits - others).abs().amax((1, 2, 3)).min() > 1e-4
    with pytest.raises(ValueError, match="label=None"):
        made(x)


def test_tokens_and_vectors_have_heads_too():
    class Tokens(nn.Module):
        def forward(self, x):
            return [x.flatten(2).movedim(1, 2)]

    x = torch.randn(2, 3, 4, 5)
    made = FeatureDiscriminator(network=Tokens(), channels=(3,), tokens=True, width=4).eval()
    places = FeatureDiscriminator(network=nn.Identity(), channels=(3,), width=4).eval()
    places.load_state_dict(made.state_dict())
    assert made(x).shape == (2, 1, 20)
    torch.testing.assert_close(made(x), places(x).flatten(2))
    vectors = FeatureDiscriminator(network=nn.Flatten(), channels=(60,), width=4)
    assert vectors(x).shape == (2, 1)


def test_layers_above_the_last_one_are_not_called_and_no_hook_is_left():
    class Costly(nn.Module):
        calls = 0

        def forward(self, x):
            Costly.calls += 1
            return x

    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), Costly())
    made = FeatureDiscriminator(network=network, channels=(4,), layers=("1",))
    made(torch.randn(1, 3, 2, 2))
    assert Costly.calls == 0
    assert not any(module._forward_hooks for module in network.modules())
    network(torch.randn(1, 3, 2, 2))
    assert Costly.calls == 1


def test_of_a_layer_that_is_called_twice_the_first_output_counts():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last = nn.Conv2d(3, 3, 1), nn.Identity()

        def forward(self, x):
            return self.last(self.layer(self.layer(x)))

    made = FeatureDiscriminator(
        network=Twice(), channels=(3, 3), layers=("layer", "last"), features=True
    )
    x = torch.randn(1, 3, 2, 2)
    (first,), (last,) = made(x).features
    torch.testing.assert_close(first, made.network.layer(x))
    torch.testing.assert_close(last, made.network(x))


def test_the_middle_of_any_denoiser_has_heads_which_see_its_noise_level_and_label():
    unet = UNet2DModel(
        8, 4, 4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2, num_class_embeds=3,
    )  # fmt: skip
    denoiser = DiffusersDenoiser(unet, DDPMScheduler())
    made = FeatureDiscriminator(
        network=denoiser, channels=(8, 16), layers=("network.down_blocks.0", "network.mid_block"),
        conditional=True,
    ).eval()  # fmt: skip
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    sigma, label = torch.tensor([0.1, 4.0]), torch.tensor([0, 2])
    logits = made(x, sigma, label)
    assert [m.shape for m in logits] == [(2, 1, 4, 4), (2, 1, 4, 4)]
    assert (logits[1] - made(x, sigma + 1, label)[1]).abs().amin((1, 2, 3)).min() > 0
    assert (logits[1] - made(x, sigma, label.flip(0))[1]).abs().amax((1, 2, 3)).min() > 0
    (gradient,) = torch.autograd.grad(logits[1].sum(), x)
    assert gradient.ne(0).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": ("act", "third")}, "no layer 'third'"),
        ({"layers": ("act",)}, "1 layers and channels of 2"),
        ({"channels": ()}, "channels is 0"),
        ({"channels": (4, -1)}, "channels is -1"),
        ({"width": 0}, "width is 0"),
        ({"classes": -1}, "classes is -1"),
    ],
)
def test_heads_that_fit_no_network_get_a_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence):
        discriminator(**options)


def test_features_that_do_not_fit_the_heads_get_a_sentence():
    x = torch.randn(2, 3, 9, 9)
    with pytest.raises(ValueError, match=r"have channels \[4, 6\], expected \[4, 7\]"):
        discriminator(channels=(4, 7))(x)
    with pytest.raises(ValueError, match="returned dict, expected a tensor or several"):

        class Named(nn.Module):
            def forward(self, x):
                return {"x": x}

        FeatureDiscriminator(network=Named(), channels=(3,))(x)
    network = backbone()
    network.idle = nn.Linear(1, 1)
    network.forward = lambda x: network.act(network.norm(network.wide(x)))
    with pytest.raises(ValueError, match="did not use its layer 'idle'"):
        discriminator(network, layers=("act", "idle"))(x)


IMAGES = {"resolution": 8, "channels": 4, "widths": (8, 16), "data_std": 0.7}
DENOISERS = {
    "latents": lambda classes: ImageDenoiser(**IMAGES, classes=classes),
    "patches": lambda classes: ImageDenoiser(
        **IMAGES, classes=classes, patch=2, attention=True, dropout=0.5
    ),
    "points": lambda classes: PointDenoiser(width=16, classes=classes, data_std=0.7),
}
EACH = pytest.mark.parametrize("kind", DENOISERS)


def trained(kind, classes=0):
    """A denoiser whose weights are no longer those of a new one."""
    denoiser = DENOISERS[kind](classes)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return denoiser.eval().requires_grad_(False)


def batch(kind):
    x = torch.randn(3, *((2,) if kind == "points" else (4, 8, 8)))
    return x, torch.tensor([0.0, 0.3, 5.0]), torch.tensor([1, 0, 2])


@EACH
@pytest.mark.parametrize("classes", [0, 3])
def test_an_encoder_starts_as_the_denoisers_own(kind, classes):
    denoiser = trained(kind, classes)
    made = EncoderDiscriminator.from_denoiser(denoiser).eval()
    x, sigma, label = batch(kind)
    label = label if classes else None
    inside = []
    last = denoiser.out if kind == "points" else denoiser.unet.mid_block
    hook = last.register_forward_hook(lambda m, args, out: inside.append((args[0], out)))
    denoiser(x, sigma, label)
    hook.remove()
    h = inside[0][0] if kind == "points" else F.silu(F.group_norm(inside[0][1], 2)).mean((2, 3))
    expected = (h @ made.head.linear.weight.T + made.head.linear.bias)[:, 0]
    logits = made(x, sigma, label)
    assert logits.shape == (3,)
    torch.testing.assert_close(logits, expected)
    if classes:
        null = torch.full((3,), classes)
        torch.testing.assert_close(made(x, sigma), made(x, sigma, null))
        assert (made(x, sigma) - logits).abs().min() > 1e-5
    with pytest.raises(ValueError, match="sigma has shape None"):
        made(x)


@EACH
def test_an_encoder_is_a_copy_of_which_every_weight_is_trained(kind):
    denoiser = trained(kind, 3)
    before = copy.deepcopy(denoiser.state_dict())
    made = EncoderDiscriminator.from_denoiser(denoiser)
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    x, sigma, label = batch(kind)
    x.requires_grad_(True)
    made(x, sigma, label).square().sum().backward()
    optimizer.step()
    assert x.grad.ne(0).all()
    idle = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not idle
    for name, value in denoiser.state_dict().items():
        assert torch.equal(value, before[name])
    assert denoiser(x.detach(), sigma, label).shape == x.shape
    assert made.training and not denoiser.training
    torch.testing.assert_close(made(x, sigma, label), made(x, sigma, label))  # no dropout


@EACH
def test_an_encoder_is_saved_and_comes_back_bit_for_bit(kind, tmp_path):
    made = EncoderDiscriminator.from_denoiser(trained(kind, 3)).eval()
    made.save_pretrained(tmp_path)
    again = load_network(tmp_path)
    for name, value in made.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    inputs = batch(kind)
    torch.testing.assert_close(again(*inputs), made(*inputs), rtol=1e-6, atol=1e-6)
    assert not any("up_blocks" in name for name in made.state_dict())


def test_an_encoder_guides_and_is_penalised_with_and_without_finite_differences():
    denoiser = trained("latents", 3)
    made = EncoderDiscriminator.from_denoiser(denoiser)
    x, sigma, label = batch("latents")
    for options in ({"r1": 0.1, "r2": 0.1}, {"r1": 0.1, "finite_difference": 0.01}):
        losses = AdversarialLoss(made, **options)(real=x, fake=-x, sigma=sigma, label=label)
        losses["total"].backward()
        assert all(p.grad.isfinite().all() for p in made.parameters())
        assert losses["r1"] > 0
    guided = discriminator_guidance(denoiser, made, scale=2.0)(x, sigma, label)
    x.requires_grad_(True)
    (slope,) = torch.autograd.grad(made(x, sigma, label).sum(), x)
    expected = denoiser(x, sigma, label) + 2 * sigma.square().reshape(3, 1, 1, 1) * slope
    torch.testing.assert_close(guided, expected)


def test_encoders_of_other_networks_get_a_sentence():
    with pytest.raises(InputError, match=r"got a Linear, expected ImageDenoiser or PointDenoiser"):
        EncoderDiscriminator.from_denoiser(nn.Linear(2, 2))
    with pytest.raises(InputError, match="no denoiser 'UNet'; there are ImageDenoiser"):
        EncoderDiscriminator(kind="UNet", settings={})


def test_a_new_encoder_is_of_the_settings_given():
    made = EncoderDiscriminator(kind="PointDenoiser", settings={"dimension": 3, "width": 8})
    assert made(torch.randn(2, 3), torch.rand(2)).shape == (2,)
    assert made.head.linear.in_features == 8
