"""The training of an autoencoder: its loss in closed form, its term, its micro-batches; on several
processes in test_two_processes.py."""

import pytest
import torch
from accelerate import Accelerator
from torch.distributions import Normal, kl_divergence
from training.workers import two_diffusions

from hybridgen import AuxiliaryTerm, digits
from hybridgen.errors import InputError
from hybridgen.networks.build import build_autoencoder
from hybridgen.networks.dcgan import DcganDiscriminator
from hybridgen.networks.settings import AutoencoderSettings
from hybridgen.training.autoencoder import Reconstruction, train_autoencoder
from hybridgen.training.settings import AutoencoderTraining, Cosine
from hybridgen.training.setup import build_adversarial

SHAPE = (1, 8, 8)
X, _ = digits().reference("train", 16)


def network(widths=(8, 8)):
    torch.manual_seed(0)
    return build_autoencoder(AutoencoderSettings(widths=widths), SHAPE)


def batches(start):
    while True:
        yield X, None


def train(made, *, steps=4, term=None, seed=0, **options):
    accelerator = Accelerator(cpu=True)
    more = {}
    if term is not None:
        discriminator = DcganDiscriminator(resolution=8, width=8)
        more = {"term": term, "adversarial": build_adversarial(discriminator, term)}
    config = AutoencoderTraining(steps=steps, batch=16, **options)
    return train_autoencoder(made, batches, config, accelerator, seed=seed, **more)


def test_divergence_and_reconstruction_are_those_of_the_posterior():
    autoencoder, noise = network(), torch.randn(16, 2, 4, 4)
    output, nats = Reconstruction(autoencoder)(X, noise)
    posterior = autoencoder.encode(X).latent_dist
    exact = kl_divergence(Normal(posterior.mean, posterior.std), Normal(0.0, 1.0))
    torch.testing.assert_close(nats, exact.sum((1, 2, 3)))
    latents = posterior.mean + posterior.std * noise
    torch.testing.assert_close(output, autoencoder.decode(latents).sample)


def test_the_loss_is_the_error_plus_the_divergence_plus_the_weighted_term():
    term = AuxiliaryTerm(weight=0.8, adaptive=True, warm_up=2, ramp=2)
    for step in train(network(), term=term, kl=0.5):
        losses = dict(step.losses)
        extra = losses["weight"] * losses["generator"] if step.number > 2 else 0
        assert ("weight" in losses) == (step.number > 2)
        expected = losses["l1"] + 0.5 * losses["kl"] + extra
        assert losses["total"] == pytest.approx(expected, rel=1e-5)
        whole = losses["adversarial"] + 0.05 * (losses["r1"] + losses["r2"])
        assert losses["discriminator"] == pytest.approx(whole, rel=1e-5)


def test_the_adaptive_weight_makes_both_losses_pull_alike_on_the_last_layer():
    weights = {}
    for adaptive in (False, True):
        term = AuxiliaryTerm(weight=0.5, adaptive=adaptive, warm_up=0, ramp=0)
        (step,) = train(network(), steps=1, term=term)
        weights[adaptive] = step.losses["weight"]
    assert weights[False] == 0.5
    assert weights[True] > 0 and weights[True] != pytest.approx(0.5, rel=0.01)


def test_during_the_warm_up_the_autoencoder_trains_as_without_a_term():
    finals = []
    for term in (None, AuxiliaryTerm(warm_up=4)):
        made = network()
        *_, last = train(made, term=term)
        finals.append([*made.state_dict().values(), *last.average.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))


def test_schedules_reach_both_networks_and_the_penalties():
    term = AuxiliaryTerm(learning_rate=Cosine(start=0.3, end=0.1), r1=Cosine(start=0.4, end=0.1))
    rate = Cosine(start=0.01, end=0.001)
    for step in train(network(), term=term, learning_rate=rate):
        progress = (step.number - 1) / 4
        for name, schedule in (("autoencoder", rate), ("discriminator", term.learning_rate)):
            (group,) = step.state[f"{name}_optimizer"].param_groups
            assert group["lr"] == schedule(progress)


def test_micro_batches_change_nothing(double):
    whole, halves = (two_diffusions.autoencoder_outcome(Accelerator(cpu=True), n) for n in (2, 4))
    assert set(whole) == set(halves)
    for name, expected in whole.items():
        torch.testing.assert_close(halves[name], expected, rtol=1e-7, atol=1e-9, msg=name)


def test_it_learns_and_the_seed_names_its_noise():
    first, *_, last = train(network(), steps=30)
    assert last.losses["l1"] < 0.8 * first.losses["l1"]
    (other,) = train(network(), steps=1, seed=1)
    assert other.losses["l1"] != first.losses["l1"] and other.losses["kl"] == first.losses["kl"]


def test_half_a_term_and_a_batch_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="both its discriminator and its settings, got one"):
        config, accelerator = AutoencoderTraining(batch=16), Accelerator(cpu=True)
        train_autoencoder(network(), batches, config, accelerator, term=AuxiliaryTerm())
    with pytest.raises(InputError, match="batch of 16 cannot be cut evenly"):
        train(network(), accumulation=3)
