import json
import math
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from hybridgen.errors import InputError
from hybridgen.networks.build import (
    DiscriminatorSettings,
    GeneratorSettings,
    activation_bytes,
    add_noise_conditioning,
    build_discriminator,
    build_generator,
    load_network,
)

LATENT = 5
SHAPES = [
    ("mlp", (2,), 8),
    ("mlp", (3,), 8),
    *[
        (architecture, (channels, size, size), 2 if size == 256 else 8)
        for architecture in ("dcgan", "residual")
        for channels in (1, 3)
        for size in (8, 28, 32, 256)
    ],
]
SMALL = [("mlp", (2,), 8), ("dcgan", (3, 12, 12), 4), ("residual", (3, 12, 12), 4)]


def generator(architecture, shape, width, classes=0):
    settings = GeneratorSettings(architecture=architecture, latent=LATENT, width=width, depth=1)
    return build_generator(settings, shape, classes)


def discriminator(architecture, shape, width, classes=0, noise=False):
    settings = DiscriminatorSettings(
        architecture=architecture, width=width, depth=1, noise_conditional=noise
    )
    return build_discriminator(settings, shape, classes)


def stir(network):
    """Move every parameter, so that what starts at zero is seen too."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


def labels(classes, batch):
    return torch.arange(batch) % classes if classes else None


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(("architecture", "shape", "width"), SHAPES)
def test_samples_have_the_shape_of_the_data_and_every_sample_one_logit(
    architecture, shape, width, classes
):
    label = labels(classes, 2)
    samples = generator(architecture, shape, width, classes)(torch.randn(2, LATENT), label)
    assert samples.shape == (2, *shape)
    assert samples.dtype == torch.float32
    for noise in (False, True):
        logits = discriminator(architecture, shape, width, classes, noise)(
            samples, torch.ones(2), label
        )
        assert logits.shape == (2,)


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize(("architecture", "shape", "width"), SMALL)
def test_a_logit_depends_on_its_own_sample_alone(architecture, shape, width, noise):
    network = stir(discriminator(architecture, shape, width, 3, noise)).double()
    x, sigma, label = torch.randn(5, *shape).double(), torch.rand(5).double(), labels(3, 5)
    alone = torch.cat([network(x[i : i + 1], sigma[i : i + 1], label[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(network(x, sigma, label), alone)
    assert network(x, sigma, label).std() > 1e-3


@pytest.mark.parametrize(("architecture", "shape", "width"), SMALL)
def test_the_penalty_of_a_discriminator_has_the_gradient_that_differences_show(
    architecture, shape, width
):
    torch.manual_seed(0)  # the penalty jumps where a LeakyReLU bends, rarely within a step
    network = stir(discriminator(architecture, shape, width, 3, noise=True)).double()
    x = torch.randn(3, *shape, dtype=torch.float64, requires_grad=True)
    sigma, label = torch.rand(3, dtype=torch.float64), labels(3, 3)

    def penalty():
        logits = network(x, sigma, label)
        return torch.autograd.grad(logits.sum(), x, create_graph=True)[0].square().sum()

    parameters = [p for p in network.parameters() if p.ndim > 1]
    gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    assert sum(gradient is not None for gradient in gradients) >= 4
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction, step, sides = torch.randn_like(parameter), 1e-8, []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * step)
            sides.append(penalty().item())
            with torch.no_grad():
                parameter.sub_(direction, alpha=sign * step)
        slope = torch.tensor((sides[0] - sides[1]) / (2 * step), dtype=torch.float64)
        exact = slope * 0 if gradient is None else (gradient * direction).sum()
        torch.testing.assert_close(slope, exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("architecture", "shape", "width"), SMALL)
def test_a_projection_discriminator_is_the_unconditional_one_and_an_embedding_term(
    architecture, shape, width
):
    labelled, plain = (
        discriminator(architecture, shape, width, 3),
        discriminator(architecture, shape, width),
    )
    stir(labelled)
    plain.load_state_dict(labelled.state_dict(), strict=False)
    x, sigma, label = torch.randn(4, *shape), torch.zeros(4), torch.tensor([0, 2, 1, 2])
    features = []
    labelled.head.linear.register_forward_hook(lambda module, args, out: features.append(args[0]))
    term = labelled(x, sigma, label) - plain(x, sigma)
    expected = torch.einsum("bf,bf->b", features[0], labelled.head.embedding.weight[label])
    torch.testing.assert_close(term, expected, rtol=1e-4, atol=1e-5)
    assert term.abs().min() > 1e-4


@pytest.mark.parametrize(("architecture", "shape", "width"), SMALL)
def test_a_new_noise_conditional_discriminator_is_the_plain_one_on_rescaled_input(
    architecture, shape, width
):
    torch.manual_seed(0)
    plain = discriminator(architecture, shape, width)
    torch.manual_seed(0)
    conditional = discriminator(architecture, shape, width, noise=True)
    x, sigma = torch.randn(4, *shape), torch.tensor([0.0, 0.5, 3.0, 80.0])
    silent = torch.zeros(4)
    torch.testing.assert_close(conditional(x, silent), plain(x, silent), rtol=0, atol=0)
    scale = (1 + sigma.square()).rsqrt().reshape(4, *[1] * len(shape))
    torch.testing.assert_close(conditional(x, sigma), plain(x * scale, silent))
    torch.testing.assert_close(plain(x, sigma), plain(x, silent), rtol=0, atol=0)
    stir(conditional)
    assert (conditional(x[:1], sigma[:1]) - conditional(x[:1], sigma[1:2])).abs() > 1e-5


@pytest.mark.parametrize(("architecture", "shape", "width"), SMALL)
def test_every_parameter_of_a_discriminator_is_used(architecture, shape, width):
    network = stir(discriminator(architecture, shape, width, 3, noise=True))
    network(torch.randn(3, *shape), torch.rand(3), labels(3, 3)).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not idle


@pytest.mark.parametrize(("architecture", "shape", "width"), SMALL)
def test_every_parameter_and_every_input_of_a_generator_is_used(architecture, shape, width):
    network = stir(generator(architecture, shape, width, 3))
    noise = torch.randn(3, LATENT)
    network(noise, labels(3, 3)).pow(3).sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not idle
    network.eval()
    one, other = network(noise, torch.zeros(3).long()), network(noise, torch.ones(3).long())
    assert (one - other).abs().max() > 1e-4


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(("architecture", "shape", "width"), SMALL)
def test_a_saved_network_comes_back_bit_for_bit(architecture, shape, width, classes, tmp_path):
    label, noise = labels(classes, 4), torch.randn(4, LATENT)
    made = stir(generator(architecture, shape, width, classes))
    made(noise, label)
    made.eval().save_pretrained(tmp_path / "generator")
    loaded = load_network(tmp_path / "generator")
    assert type(loaded) is type(made)
    assert dict(loaded.config)["latent"] == LATENT
    assert torch.equal(loaded(noise, label), made(noise, label))

    judge = stir(discriminator(architecture, shape, width, classes, noise=True)).eval()
    judge.save_pretrained(tmp_path / "discriminator")
    again = load_network(tmp_path / "discriminator")
    x, sigma = torch.randn(4, *shape), torch.rand(4)
    assert torch.equal(again(x, sigma, label), judge(x, sigma, label))
    for name, value in judge.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_depth_and_width_of_the_settings_reach_the_networks():
    for architecture, shape in (("mlp", (2,)), ("residual", (1, 8, 8))):
        for depth, width in ((1, 8), (3, 16)):
            made = build_generator(
                GeneratorSettings(architecture=architecture, depth=depth, width=width), shape
            )
            judge = build_discriminator(
                DiscriminatorSettings(architecture=architecture, depth=depth, width=width), shape
            )
            for network in (made, judge):
                assert (network.config.depth, network.config.width) == (depth, width)


@pytest.mark.parametrize(
    ("architecture", "shape", "message"),
    [
        ("mlp", (1, 8, 8), "choose residual or dcgan"),
        ("residual", (2,), "choose mlp"),
        ("dcgan", (2,), "choose mlp"),
        ("residual", (1, 8, 16), "square"),
        ("residual", (0, 8, 8), "channels is 0, but must be at least 1"),
        ("dcgan", (1, 36, 36), "resize them to 32 or 40"),
        ("dcgan", (1, 7, 7), "resize them to 8"),
        ("residual", (1, 3, 3), "resize them to 4"),
        ("residual", (1, 512, 512), "resize them to 256"),
        (
            "transformer",
            (1, 8, 8),
            "architecture must be one of mlp, dcgan, residual(, patch)?, got 'transformer'",
        ),
    ],
)
def test_data_that_an_architecture_cannot_take_is_an_input_error(architecture, shape, message):
    with pytest.raises(InputError, match=message):
        generator(architecture, shape, 8)
    with pytest.raises(InputError, match=message):
        discriminator(architecture, shape, 8)


@pytest.mark.parametrize("setting", ["latent", "width", "depth"])
@pytest.mark.parametrize("architecture", ["mlp", "residual"])
def test_a_size_of_zero_is_an_input_error(architecture, setting):
    shape = (2,) if architecture == "mlp" else (1, 8, 8)
    with pytest.raises(InputError, match=f"{setting} must be .* got 0"):
        build_generator(GeneratorSettings(architecture=architecture, **{setting: 0}), shape)


def test_a_folder_without_a_network_of_ours_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        load_network(tmp_path)
    config = tmp_path / "config.json"
    config.write_text("{")
    with pytest.raises(InputError, match="not a network's configuration"):
        load_network(tmp_path)
    config.write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(InputError, match="'UNet2DModel'"):
        load_network(tmp_path)


def test_missing_or_damaged_weights_are_an_input_error(tmp_path):
    generator("mlp", (2,), 8).save_pretrained(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        load_network(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_network(tmp_path)


def test_weights_of_other_names_are_an_input_error(tmp_path):
    generator("mlp", (2,), 8).save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors["renamed"] = tensors.pop(name)
    save_file(tensors, path)
    with pytest.raises(InputError, match=f"cannot be read .they have no {name}"):
        load_network(tmp_path)


@pytest.mark.parametrize("setting", [{"depth": 10**9}, {"width": 10**5}, {"latent": 10**15}])
def test_settings_larger_than_the_weights_beside_them_are_refused_before_they_are_built(
    tmp_path, setting
):
    generator("mlp", (2,), 8).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | setting))
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"describe a network of|is 1e\+\d+, and at most \d+ is"):
        load_network(tmp_path)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_said(tmp_path, value):
    network = generator("mlp", (2,), 8)
    with torch.no_grad():
        next(network.parameters()).view(-1)[3] = value
    network.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="are not finite"):
        load_network(tmp_path)


@pytest.mark.parametrize("name", [["MlpGenerator"], None, "os.system"])
def test_a_class_that_is_none_of_ours_is_refused(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(InputError, match=r"expected one of|its _class_name is"):
        load_network(tmp_path)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(
    ("architecture", "shape", "frequencies"),
    [("mlp", (2,), 0), ("mlp", (2,), 3), ("dcgan", (1, 8, 8), 0), ("residual", (1, 8, 8), 0)],
)
def test_without_noise_it_says_what_the_discriminator_said_and_with_noise_it_can_learn(
    architecture, shape, frequencies, classes
):
    torch.manual_seed(0)
    settings = DiscriminatorSettings(architecture=architecture, width=8, frequencies=frequencies)
    discriminator = stir(build_discriminator(settings, shape, classes))
    conditional = add_noise_conditioning(discriminator)
    x, label = torch.randn(4, *shape), torch.arange(4) % classes if classes else None
    torch.testing.assert_close(conditional(x, torch.zeros(4), label), discriminator(x, None, label))
    scaled = conditional(2 * x, torch.full((4,), 3**0.5), label)
    torch.testing.assert_close(scaled, discriminator(x, None, label))
    scaled.sum().backward()
    assert float(conditional.noise.linear.weight.grad.norm()) > 0
    assert add_noise_conditioning(conditional) is conditional


def test_patches_are_built_for_images_that_have_any_and_no_guide_starts_from_them():
    settings = DiscriminatorSettings(
        architecture="patch", width=4, depth=1, noise_conditional=True, activation="silu"
    )
    network = build_discriminator(settings, (4, 8, 8), classes=3)
    logits = network(torch.randn(2, 4, 8, 8), torch.rand(2), torch.tensor([2, 0]))
    assert logits.shape == (2, 1, 2, 2)
    config = network.config
    assert (config.channels, config.width, config.depth, config.classes) == (4, 4, 1, 3)
    assert config.noise_conditional and config.activation == "silu"
    hidden = 4 * 16 + 8 * 9  # after the first and the second layer
    assert hidden <= activation_bytes(network) / 4 <= 12 * hidden
    for shape, depth in (((1, 8, 8), 2), ((1, 28, 28), 4)):
        with pytest.raises(InputError, match=f"patch of depth {depth} needs images of at least"):
            build_discriminator(DiscriminatorSettings(architecture="patch", depth=depth), shape)
    with pytest.raises(InputError, match="patch is for square images"):
        build_discriminator(DiscriminatorSettings(architecture="patch"), (2,))
    with pytest.raises(InputError, match="frequencies are for points"):
        build_discriminator(DiscriminatorSettings(architecture="patch", frequencies=2), (1, 28, 28))
    with pytest.raises(InputError, match="one logit a sample, and got a PatchDiscriminator"):
        add_noise_conditioning(network)


def test_a_generator_is_refused():
    generator = build_generator(GeneratorSettings(architecture="mlp"), (2,))
    with pytest.raises(InputError, match="one logit a sample, and got a MlpGenerator"):
        add_noise_conditioning(generator)
