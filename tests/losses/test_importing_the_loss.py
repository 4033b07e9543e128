"""The README's three ways to use the loss inside somebody else's model."""

import torch
from accelerate import Accelerator
from torch import nn

from hybridgen import AdversarialLoss, Unconditional, adaptive_weight, objectives


def patch_discriminator(channels=1):
    return Unconditional(
        nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 1, 3, padding=1),
        )
    )


def images(count=32):
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().images[:count, None] / 8 - 1, dtype=torch.float32)


def test_a_plain_autoencoder_takes_the_loss_in_three_lines():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 64), nn.Unflatten(1, (1, 8, 8))
    )
    adversarial = AdversarialLoss(patch_discriminator(), objectives.hinge, r1=0.1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    discriminator_optimizer = torch.optim.Adam(adversarial.parameters(), 1e-3)
    target, errors = images(), []
    for _ in range(100):
        output = model(target)
        error = (output - target).square().mean()
        loss = error + 0.01 * adversarial.generator_loss(fake=output)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        discriminator_optimizer.zero_grad()
        adversarial(real=target, fake=output)["total"].backward()
        discriminator_optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < errors[0] / 3


def test_autoencoder_kl_trains_under_accelerate_with_an_adaptive_weight():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    adversarial = AdversarialLoss(patch_discriminator(), r1=0.1, r2=0.1)
    optimizer = torch.optim.Adam(vae.parameters(), 2e-3)
    discriminator_optimizer = torch.optim.Adam(adversarial.parameters(), 1e-3)
    vae, adversarial, optimizer, discriminator_optimizer = accelerator.prepare(
        vae, adversarial, optimizer, discriminator_optimizer
    )
    adversarial_loss = accelerator.unwrap_model(adversarial)
    last_layer = accelerator.unwrap_model(vae).decoder.conv_out.weight
    target, errors, weights = images(16), [], []
    for step in range(30):
        output = vae(target).sample
        error = (output - target).square().mean()
        game = adversarial_loss.generator_loss(fake=output, real=target)
        weight = adaptive_weight(error, game, last_layer) * min(1.0, step / 10) * 0.1
        optimizer.zero_grad()
        accelerator.backward(error + weight * game)
        assert all(p.grad is None or not p.grad.any() for p in adversarial.parameters())
        optimizer.step()
        accelerator.backward(adversarial(real=target, fake=output)["total"])
        discriminator_optimizer.step()
        discriminator_optimizer.zero_grad()
        errors.append(float(error.detach()))
        weights.append(float(weight))
    assert errors[-1] < errors[0]
    assert weights[-1] > 0


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms_at_a_linear_last_layer():
    torch.manual_seed(0)
    h, a, b = torch.randn(5, 3), torch.randn(5, 2), torch.randn(5, 2)
    layer = nn.Linear(3, 2, bias=False)
    out = layer(h)
    weight = adaptive_weight((out * a).sum(), (out * b).sum(), layer.weight)
    exact = (a.T @ h).norm() / ((b.T @ h).norm() + 1e-4)
    torch.testing.assert_close(weight, exact, rtol=1e-6, atol=0)
    assert not weight.requires_grad


def test_the_adaptively_weighted_term_does_not_change_when_the_game_is_scaled():
    torch.manual_seed(0)
    h, layer = torch.randn(5, 3), nn.Linear(3, 2)
    out = layer(h)
    main, game = out.square().mean(), out.sin().mean()
    once = adaptive_weight(main, game, layer.weight) * game
    scaled = adaptive_weight(main, 1000 * game, layer.weight) * 1000 * game
    torch.testing.assert_close(once, scaled, rtol=5e-3, atol=0)


def test_the_adaptive_weight_is_limited_where_the_game_gives_no_gradient():
    layer = nn.Linear(3, 2)
    out = layer(torch.ones(1, 3))
    assert float(adaptive_weight(out.sum() * 1e6, out.sum() * 0, layer.weight, limit=7.0)) == 7
