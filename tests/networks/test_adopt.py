"""A guide that starts as a GAN's critic."""

import pytest
import torch

from hybridgen.errors import InputError
from hybridgen.networks.adopt import noise_conditional
from hybridgen.networks.build import (
    CriticSettings,
    GeneratorSettings,
    build_critic,
    build_generator,
)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(
    ("architecture", "shape"),
    [("mlp", (2,)), ("dcgan", (1, 8, 8)), ("residual", (1, 8, 8))],
)
def test_without_noise_it_says_what_the_critic_said_and_with_noise_it_can_learn(
    architecture, shape, classes
):
    torch.manual_seed(0)
    critic = build_critic(CriticSettings(architecture=architecture, width=8), shape, classes)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    adopted = noise_conditional(critic)
    x, label = torch.randn(4, *shape), torch.arange(4) % classes if classes else None
    torch.testing.assert_close(adopted(x, torch.zeros(4), label), critic(x, None, label))
    scaled = adopted(2 * x, torch.full((4,), 3**0.5), label)
    torch.testing.assert_close(scaled, critic(x, None, label))
    scaled.sum().backward()
    assert float(adopted.noise.linear.weight.grad.norm()) > 0
    assert noise_conditional(adopted) is adopted


def test_a_generator_is_refused():
    generator = build_generator(GeneratorSettings(architecture="mlp"), (2,))
    with pytest.raises(InputError, match="MlpGenerator is none"):
        noise_conditional(generator)
