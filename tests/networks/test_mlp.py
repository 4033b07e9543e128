import torch
from torch import nn

from hybridgen.networks.mlp import MlpCritic, MlpGenerator


def by_hand(layers, last, x):
    for layer in layers:
        x = layer(x)
        x = torch.where(x > 0, x, 0.2 * x)
    return last(x)


def test_a_generator_is_linear_maps_with_leaky_relus_between():
    generator, noise = MlpGenerator(latent=3, width=16, depth=2), torch.randn(5, 3)
    assert len(generator.hidden) == 2
    torch.testing.assert_close(generator(noise), by_hand(generator.hidden, generator.out, noise))


def test_a_critic_is_linear_maps_with_leaky_relus_between():
    critic, x = MlpCritic(width=16, depth=3), torch.randn(5, 2)
    expected = by_hand(critic.hidden, critic.head.linear, x).squeeze(1)
    torch.testing.assert_close(critic(x, torch.zeros(5)), expected)


def test_each_layer_of_a_critic_has_its_own_noise_bias():
    critic, x, sigma = MlpCritic(width=8, depth=3, noise_conditional=True), torch.randn(5, 2), 0.5
    nn.init.normal_(critic.noise.linear.weight)
    level = torch.full((5,), sigma)
    h, biases = critic.noise(x, level)
    for layer, bias in zip(critic.hidden, biases, strict=True):
        h = layer(h) + bias
        h = torch.where(h > 0, h, 0.2 * h)
    torch.testing.assert_close(critic(x, level), critic.head.linear(h).squeeze(1))
