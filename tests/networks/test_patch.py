import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybridgen.networks.patch import Ensemble, PatchDiscriminator
from hybridgen.networks.pixel import PixelDiscriminator

AXES = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def smooth(x):
    return 1.2089 * F.silu(x)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_patches_are_strided_convolutions_of_kernel_4_and_two_of_stride_1(dims):
    network = PatchDiscriminator(dims=dims, channels=5, width=3, depth=2, norm="none")
    x = torch.randn(2, 5, *[13, 14, 12][:dims])
    h, weights = x, [network.stacks[0].layers[i] for i in range(3)]
    for layer, stride in zip(weights, (2, 2, 1), strict=True):
        h = F.leaky_relu(AXES[dims](h, layer.weight, layer.bias, stride, 1), 0.2)
    last = network.stacks[0].head.convolution
    torch.testing.assert_close(network(x), AXES[dims](h, last.weight, last.bias, 1, 1))
    assert [layer.out_channels for layer in weights] == [3, 6, 12]
    silu = PatchDiscriminator(
        dims=dims, channels=5, width=3, depth=2, norm="none", activation="silu"
    )
    silu.load_state_dict(network.state_dict())
    h = x
    for layer, stride in zip(weights, (2, 2, 1), strict=True):
        h = smooth(AXES[dims](h, layer.weight, layer.bias, stride, 1))
    expected = AXES[dims](h, last.weight, last.bias, 1, 1)
    torch.testing.assert_close(silu(x), expected, rtol=1e-3, atol=1e-4)


def test_channels_double_to_eight_times_the_width():
    network = PatchDiscriminator(width=2, depth=6)
    assert [layer.out_channels for layer in network.stacks[0].layers] == [2, 4, 8, 16, 16, 16, 16]


@pytest.mark.parametrize(("depth", "pixels"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_a_logit_of_depth_3_sees_70_pixels_a_side(depth, pixels):
    network = PatchDiscriminator(channels=1, width=1, depth=depth, norm="none")
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)
    x = torch.ones(1, 1, 3 * pixels, 3 * pixels, requires_grad=True)
    logits = network(x)
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], x)
    assert gradient[0, 0].ne(0).any(0).sum() == gradient[0, 0].ne(0).any(1).sum() == pixels


def test_each_scale_sees_the_mean_of_its_neighbours_where_there_are_any():
    network = PatchDiscriminator(dims=1, channels=1, width=2, depth=1, scales=3).eval()
    x = torch.randn(2, 1, 41)
    half = F.pad(x, (1, 1)).unfold(2, 3, 2).sum(3) / F.pad(torch.ones_like(x), (1, 1)).unfold(
        2, 3, 2
    ).sum(3)
    quarter = F.pad(half, (1, 1)).unfold(2, 3, 2).sum(3)
    quarter /= F.pad(torch.ones_like(half), (1, 1)).unfold(2, 3, 2).sum(3)
    maps = network(x)
    assert len(maps) == 3
    for logits, stack, scaled in zip(maps, network.stacks, (x, half, quarter), strict=True):
        torch.testing.assert_close(logits, stack(scaled, None, None).logits)


@pytest.mark.parametrize("scales", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_smallest_sample_gives_one_patch_at_the_coarsest_scale(depth, scales):
    network = PatchDiscriminator(dims=1, channels=1, width=1, depth=depth, scales=scales)
    least = network.least
    maps = network(torch.randn(1, 1, least))
    assert (maps if scales == 1 else maps[-1]).shape == (1, 1, 1)
    with pytest.raises(ValueError, match=f"with t of at least {least}"):
        network(torch.randn(1, 1, least - 1))
    if scales == 1:
        assert least == 3 * 2**depth
        with pytest.raises(RuntimeError):  # no patch: the bound is not one too many
            network.stacks[0](torch.randn(1, 1, least - 1), None, None)


def test_a_condition_is_joined_to_the_sample_and_not_scaled_with_the_noise():
    network = PatchDiscriminator(
        channels=2, condition_channels=3, width=2, depth=1, noise_conditional=True, norm="none"
    )
    plain = PatchDiscriminator(channels=5, width=2, depth=1, norm="none")
    plain.load_state_dict(network.state_dict(), strict=False)
    x, condition, sigma = torch.randn(4, 2, 9, 9), torch.randn(4, 3, 9, 9), torch.full((4,), 2.0)
    expected = plain(torch.cat([x / 5**0.5, condition], dim=1))
    torch.testing.assert_close(network(x, sigma, None, condition), expected)
    network.stacks.append(network.stacks[0])  # a coarser scale sees both halved
    x, condition = torch.randn(4, 2, 12, 12), torch.randn(4, 3, 12, 12)
    halved = network.halve(torch.cat([x / 5**0.5, condition], dim=1))
    expected = [plain(torch.cat([x / 5**0.5, condition], dim=1)), plain(halved)]
    torch.testing.assert_close(network(x, sigma, None, condition), expected)
    x, condition = x[..., :9, :9], condition[..., :9, :9]
    for wrong in (None, condition[:, :2], condition[..., 1:], condition[:1]):
        with pytest.raises(ValueError, match=r"condition_channels=3 expects \[4, 3, 9, 9\]"):
            network(x, sigma, None, wrong)
    with pytest.raises(ValueError, match="condition_channels=0 expects None"):
        PatchDiscriminator(channels=2)(torch.randn(4, 2, 24, 24), None, None, condition)


@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
@pytest.mark.parametrize(("dims", "shape"), [(1, (13,)), (2, (8, 15)), (3, (5, 6, 4))])
def test_pixels_are_a_u_net_whose_skips_are_added(dims, shape, activation):
    network = PixelDiscriminator(
        dims=dims, channels=3, width=2, depth=2, activation=activation
    ).eval()

    def convolved(layer, x, stride=1, act=True):
        x = AXES[dims](x, layer.weight, layer.bias, stride, 1)
        hidden = smooth(x) if activation == "silu" else F.leaky_relu(x, 0.2)
        return hidden if act else x

    def grown(x, like):
        return F.interpolate(x, like.shape[2:], mode=MODES[dims], align_corners=False)

    x = torch.randn(2, 3, *shape)
    x0 = convolved(network.entry, x)
    x1 = convolved(network.down[0], x0, 2)
    x2 = convolved(network.down[1], x1, 2)
    x3 = convolved(network.up[0], grown(x2, x1)) + x1
    x4 = convolved(network.up[1], grown(x3, x0)) + x0
    out = convolved(network.last[1], convolved(network.last[0], x4))
    logits = network(x)
    expected = convolved(network.head.convolution, out, act=False)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)
    assert logits.shape == (2, 1, *shape)
    normalised = [m for m in network.modules() if nn.utils.parametrize.is_parametrized(m)]
    assert normalised == [*network.down, *network.up, *network.last]
    assert all(layer.bias is None for layer in normalised)


def test_pixels_need_a_picture_that_halves_as_often_as_it_is_deep():
    network = PixelDiscriminator(channels=1, width=1, depth=3)
    assert network(torch.randn(1, 1, 8, 9)).shape == (1, 1, 8, 9)
    with pytest.raises(ValueError, match="with h w of at least 8"):
        network(torch.randn(1, 1, 7, 9))


def test_an_ensemble_answers_the_logits_and_features_of_all_in_turn():
    class Vector(nn.Module):
        def forward(self, x, sigma, label=None, condition=None):
            return x.flatten(1).sum(1) + (0 if condition is None else condition)

    options = {"channels": 1, "width": 2, "depth": 1}
    one = PatchDiscriminator(**options, features=True).eval()
    several = PatchDiscriminator(**options, scales=2, features=True).eval()
    plain = PatchDiscriminator(**options, scales=2).eval()
    x, sigma = torch.randn(2, 1, 11, 11), torch.zeros(2)
    answer = Ensemble(one, Vector(), several, plain)(x, sigma)
    expected = [one(x).logits, x.sum((1, 2, 3)), *several(x).logits, *plain(x)]
    torch.testing.assert_close(answer.logits, expected)
    assert [len(layers) for layers in answer.features] == [2, 0, 2, 2, 0, 0]
    torch.testing.assert_close(answer.features[3], several(x).features[1])
    maps = Ensemble(Vector(), plain)(x, sigma)
    torch.testing.assert_close(maps, [expected[1], *plain(x)])
    alone = Ensemble(Vector())(x, sigma, None, torch.full((2,), 5.0))
    torch.testing.assert_close(alone, expected[1] + 5)
