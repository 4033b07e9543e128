import pytest
import torch
from torch import nn

from hybridgen.networks.dcgan import DcganDiscriminator, DcganGenerator


def test_generated_images_stay_within_the_range_of_the_data():
    generator = DcganGenerator(latent=8, resolution=8, width=8)
    nn.init.normal_(generator.out.weight)
    images = generator(100 * torch.randn(16, 8))
    assert images.abs().max() <= 1
    assert images.abs().max() > 0.9


def test_in_eval_mode_a_generated_image_depends_on_its_own_noise_alone():
    generator = DcganGenerator(latent=8, resolution=8, width=8)
    noise = torch.randn(16, 8)
    generator(noise)
    generator.eval()
    torch.testing.assert_close(generator(noise)[:3], generator(noise[:3]))


def test_no_discriminator_normalises():
    kinds = {type(module).__name__ for module in DcganDiscriminator(classes=3).modules()}
    assert not [kind for kind in kinds if "Norm" in kind]


def test_a_new_generator_has_the_weights_of_the_recipe():
    generator = DcganGenerator(resolution=32, width=32)
    for layer in (*generator.layers, generator.out):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_new_discriminator_keeps_the_second_moment_inside():
    torch.manual_seed(0)
    discriminator = DcganDiscriminator(resolution=32, channels=3, width=64)
    inside = []
    for layer in discriminator.layers:
        layer.register_forward_hook(lambda m, args, out: inside.append(out[..., 1:-1, 1:-1]))
    discriminator(torch.randn(32, 3, 32, 32))
    assert len(inside) == 4
    for hidden in inside:
        assert 1.2 < hidden.var().item() < 2.6


def test_width_is_doubled_towards_the_base():
    discriminator = DcganDiscriminator(resolution=32, width=8)
    assert [layer.out_channels for layer in discriminator.layers] == [8, 16, 32, 32]
    generator = DcganGenerator(resolution=32, width=8)
    assert [layer.out_channels for layer in generator.layers] == [32, 32, 16, 8]


def test_hidden_layers_pass_a_relu_in_the_generator_and_a_leaky_one_in_the_discriminator():
    generator, discriminator = (
        DcganGenerator(latent=8, resolution=8),
        DcganDiscriminator(resolution=8),
    )
    seen = []
    for network in (generator, discriminator):
        network.layers[1].register_forward_hook(lambda module, args, out: seen.append(args[0]))
    discriminator.layers[0].register_forward_hook(lambda module, args, out: seen.append(out))
    discriminator(generator(torch.randn(8, 8)))
    assert seen[0].min() == 0
    hidden, after = seen[1], seen[2]
    torch.testing.assert_close(after, torch.where(hidden > 0, hidden, 0.2 * hidden))


def test_every_layer_gets_the_noise_bias_that_was_made_for_it():
    """At resolution 8 both layers are as wide, so a bias of the other would fit too."""
    discriminator = DcganDiscriminator(resolution=8, width=8, noise_conditional=True)
    torch.nn.init.normal_(discriminator.noise.linear.weight)
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 9.0])
    h, biases = discriminator.noise(x, sigma)
    assert len({bias.shape for bias in biases}) == 1 and len(biases) == 2
    for layer, bias in zip(discriminator.layers, biases, strict=True):
        h = torch.nn.functional.leaky_relu(layer(h) + bias[:, :, None, None], 0.2)
    torch.testing.assert_close(discriminator(x, sigma), discriminator.head(h.flatten(1), None))
