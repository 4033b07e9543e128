"""Denoisers: what surrounds the network, what it is told, and that it comes back as it was."""

import json
import math

import pytest
import torch
from torch import nn

from hybridgen.errors import InputError
from hybridgen.maths.noise import scalings
from hybridgen.networks.build import DenoiserSettings, build_denoiser, load_network
from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser

SMALL = {
    "points": ({"width": 16, "depth": 2}, (2,)),
    "images": ({"widths": (8, 16)}, (1, 8, 8)),
    "patches": ({"widths": (8,), "patch": 2}, (3, 8, 8)),
    "attention": ({"widths": (8, 16), "attention": True}, (1, 4, 4)),
}
EACH = pytest.mark.parametrize("kind", SMALL)


def make(kind, classes=0, **changes):
    """A small denoiser in double precision, with no parameter at zero."""
    settings, shape = SMALL[kind]
    torch.manual_seed(0)
    network = build_denoiser(DenoiserSettings(**{**settings, **changes}), shape, classes).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network.eval()


def noisy(network, batch=3):
    x = torch.randn(batch, *network.shape, dtype=torch.float64)
    return x, torch.tensor([0.02, 0.7, 40.0], dtype=torch.float64)[:batch]


def column(sigma, x):
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


@EACH
@pytest.mark.parametrize("classes", [0, 4])
def test_estimates_have_the_shape_of_the_data(kind, classes):
    network = make(kind, classes).float()
    x, sigma = noisy(network)
    label = torch.tensor([0, 3, 1]) if classes else None
    estimate = network(x.float(), sigma.float(), label)
    assert estimate.shape == x.shape and estimate.dtype == torch.float32
    assert (network.shape, network.classes) == (SMALL[kind][1], classes)


@EACH
def test_an_estimate_depends_on_its_own_sample_alone(kind):
    network = make(kind, 4)
    x, sigma = noisy(network)
    label = torch.tensor([0, 3, 1])
    alone = [network(x[i : i + 1], sigma[i : i + 1], label[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(network(x, sigma, label), torch.cat(alone))


@EACH
@pytest.mark.parametrize("std", [0.5, 1.7])
def test_a_network_that_answers_a_constant_is_skip_and_out_around_it(kind, std):
    network = make(kind, data_std=std)
    with torch.no_grad():
        network.last_layer.zero_()
        last = network.out if kind == "points" else network.unet.conv_out
        last.bias.fill_(0.3)
    x, sigma = noisy(network)
    c = scalings(sigma, std)
    expected = column(c.skip, x) * x + column(c.out, x) * 0.3
    torch.testing.assert_close(network(x, sigma), expected)


@EACH
def test_the_network_sees_data_of_unit_scale_and_the_level(kind):
    network, seen = make(kind), []
    inside = network.entry if kind == "points" else network.unet
    inside.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    x, sigma = noisy(network)
    network(x, sigma)
    c = scalings(sigma, network.config["data_std"])
    scaled = column(c.inner, x) * x
    if kind == "points":
        torch.testing.assert_close(seen[0][0][:, :2], scaled)
        frequencies = 2 * math.pi / torch.logspace(math.log10(8), -1, 8, dtype=torch.float64)
        angles = (scaled.unsqueeze(-1) * frequencies).flatten(1)
        expected = torch.cat([angles.sin(), angles.cos()], dim=1)
        torch.testing.assert_close(seen[0][0][:, 2:], expected, rtol=1e-4, atol=1e-4)
        return
    picture, level = seen[0]
    patch = network.config["patch"]
    assert picture.shape == (3, x.shape[1] * patch**2, x.shape[2] // patch, x.shape[3] // patch)
    torch.testing.assert_close(picture, nn.functional.pixel_unshuffle(scaled, patch))
    torch.testing.assert_close(level, 25 * sigma.log())


@EACH
def test_the_noise_level_matters_beyond_its_scale(kind):
    network = make(kind)
    x = torch.randn(1, *network.shape, dtype=torch.float64)

    def raw(sigma):
        level = torch.tensor([sigma], dtype=torch.float64)
        c = scalings(level, network.config["data_std"])
        unscaled = x / c.inner
        return (network(unscaled, level) - c.skip * unscaled) / c.out

    assert (raw(0.1) - raw(2.0)).abs().max() > 1e-3


@EACH
def test_everything_passes_the_last_layer(kind):
    network = make(kind)
    x, sigma = noisy(network)
    assert any(network.last_layer is p for p in network.parameters())
    answers, weight = [], network.last_layer.detach().clone()
    for factor in (0, 1, 2):
        with torch.no_grad():
            network.last_layer.copy_(factor * weight)
        answers.append(network(x, sigma))
    torch.testing.assert_close(answers[2] - answers[1], answers[1] - answers[0])
    assert (answers[1] - answers[0]).abs().amax(dim=tuple(range(1, x.ndim))).min() > 1e-6


@EACH
def test_without_noise_the_estimate_is_finite_and_the_input(kind):
    network = make(kind)
    x = torch.randn(2, *network.shape, dtype=torch.float64)
    estimate = network(x, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(estimate, x, rtol=0, atol=1e-3)
    (slope,) = torch.autograd.grad(estimate.sum(), network.last_layer)
    assert bool(slope.isfinite().all())


@EACH
def test_no_label_means_the_label_that_stands_for_none(kind):
    network = make(kind, 4)
    x, sigma = noisy(network)
    none = network(x, sigma)
    assert torch.equal(none, network(x, sigma, torch.full((3,), 4)))
    for label in range(4):
        assert (none - network(x, sigma, torch.full((3,), label))).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["points", "patches"])
def test_labels_that_cannot_be_are_refused(kind):
    network, plain = make(kind, 4), make(kind)
    x, sigma = noisy(network)
    with pytest.raises(ValueError, match=r"classes=0 but got labels; pass label=None"):
        plain(x, sigma, torch.zeros(3).long())
    with pytest.raises(ValueError, match=r"shape \[2\].*expected integers of shape \[3\]"):
        network(x, sigma, torch.zeros(2).long())
    with pytest.raises(ValueError, match=r"type torch\.float32"):
        network(x, sigma, torch.zeros(3))
    with pytest.raises(ValueError, match="this network expects"):
        network(x[..., :1], sigma)


@EACH
@pytest.mark.parametrize("classes", [0, 4])
def test_a_saved_denoiser_comes_back_bit_for_bit(kind, classes, tmp_path):
    network = make(kind, classes, data_std=0.7).float()
    network.save_pretrained(tmp_path)
    loaded = load_network(tmp_path)
    assert type(loaded) is type(network) and not loaded.training
    ours, theirs = (
        dict([*n.named_parameters(), *n.named_buffers(remove_duplicate=False)])
        for n in (network, loaded)
    )
    assert ours.keys() == theirs.keys()
    assert ("features.frequencies" in ours) == (kind == "points")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    x, sigma = (t.float() for t in noisy(network))
    label = torch.tensor([0, 3, 1]) if classes else None
    assert torch.equal(loaded(x, sigma, label), network(x, sigma, label))
    assert (loaded.shape, loaded.classes) == (network.shape, classes)
    assert loaded.config["data_std"] == 0.7


@pytest.mark.parametrize(
    ("kind", "since"),
    [("images", ("patch", "dropout", "attention")), ("points", ("min_wavelength", "frequencies"))],
)
def test_a_configuration_without_newer_settings_is_read_with_their_defaults(kind, since, tmp_path):
    network = make(kind).float()
    network.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for name in since:
        del config[name]
    path.write_text(json.dumps(config))
    x, sigma = (t.float() for t in noisy(network))
    assert torch.equal(load_network(tmp_path)(x, sigma), network(x, sigma))


def test_every_setting_reaches_the_network():
    settings = DenoiserSettings(
        widths=(8, 16, 24), patch=2, layers=2, attention=True, dropout=0.25, data_std=0.3
    )
    network = build_denoiser(settings, (3, 16, 16), 5)
    config = network.unet.config
    assert isinstance(network, ImageDenoiser)
    assert (config.sample_size, config.in_channels, config.out_channels) == (8, 12, 12)
    assert list(config.block_out_channels) == [8, 16, 24]
    assert (config.layers_per_block, config.dropout, config.num_class_embeds) == (2, 0.25, 6)
    assert config.down_block_types[-1] == "AttnDownBlock2D"
    assert config.up_block_types[0] == "AttnUpBlock2D"
    assert network.config["data_std"] == 0.3
    points = build_denoiser(
        DenoiserSettings(width=24, depth=1, frequencies=3, min_wavelength=0.5, data_std=2.0),
        (3,),
        5,
    )
    assert isinstance(points, PointDenoiser)
    expected = {"dimension": 3, "width": 24, "depth": 1, "frequencies": 3, "classes": 5}
    assert points.config["min_wavelength"] == 0.5
    assert expected.items() <= dict(points.config).items()
    assert points.config["data_std"] == 2.0
    assert points.features.frequencies.tolist() == pytest.approx(
        [2 * math.pi / w for w in (8, 2, 0.5)]
    )


def test_the_deviation_of_the_data_is_edms_for_images_and_one_for_points():
    assert make("images").config["data_std"] == 0.5
    assert make("points").config["data_std"] == 1.0


@pytest.mark.parametrize(
    ("shape", "settings", "sentence"),
    [
        ((1, 8, 8), {"widths": (8, 8, 8, 8, 8)}, "by 16, which does not divide 8"),
        ((1, 10, 10), {"widths": (8, 8, 8)}, "by 4, which does not divide 10: give fewer widths"),
        ((1, 9, 9), {"patch": 2, "widths": (8,)}, "by 2, which does not divide 9"),
        ((1, 8, 8), {"widths": ()}, "widths is empty"),
        (
            (1, 8, 8),
            {"widths": (8, 0)},
            r"widths must be .*whole number in \[1, 65536\], got \(8, 0\)",
        ),
        (
            (1, 8, 8),
            {"widths": (8, 4), "attention": True},
            "attention needs at least 8 channels .* got 4",
        ),
        ((1, 8, 8), {"patch": 0}, r"patch must be a whole number in \[1, 256\], got 0"),
        ((1, 8, 8), {"layers": 0}, r"layers must be .*, got 0"),
        ((1, 8, 8), {"dropout": 1.5}, r"dropout.*\[0, 1\), got 1.5"),
        ((1, 8, 8), {"dropout": -0.1}, r"dropout.*\[0, 1\), got -0.1"),
        (
            (1, 8, 8),
            {"data_std": 0.0},
            r"data_std must be a number in \[1e-06, 1e\+06\] or null, got 0.0",
        ),
        ((2,), {"data_std": math.nan}, "data_std must be a number in .*, got nan"),
        ((2,), {"data_std": math.inf}, "data_std must be a number in .*, got inf"),
        ((2,), {"min_wavelength": 0.0}, "min_wavelength must be a number in .*, got 0.0"),
        ((2,), {"min_wavelength": math.inf}, "min_wavelength must be a number in .*, got inf"),
        ((2,), {"width": 0}, r"width must be a whole number in \[1, 65536\], got 0"),
        ((2,), {"depth": 0}, r"depth must be a whole number in \[1, 256\], got 0"),
        ((2,), {"frequencies": 0}, "frequencies is 0"),
        ((1, 8, 4), {}, r"square images \(c, h, h\).*crop or resize"),
        ((8, 8), {}, "square images"),
    ],
)
def test_settings_that_fit_no_denoiser_are_refused(shape, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        build_denoiser(DenoiserSettings(**settings), shape)


def test_a_negative_number_of_classes_is_refused():
    for shape in ((2,), (1, 8, 8)):
        with pytest.raises(InputError, match="classes is -1"):
            build_denoiser(DenoiserSettings(), shape, -1)
