"""Anybody's sampler measured: callables, labels, data of one's own, and what is refused."""

import pytest
import torch

from hybridgen import SinglePass
from hybridgen.data.points import MixturePoints
from hybridgen.evaluation.evaluator import build_evaluator
from hybridgen.evaluation.measure import measure
from hybridgen.maths.mixtures import ring
from hybridgen.protocols import Cost


@pytest.fixture(scope="module")
def mixture():
    return ring()


@pytest.fixture(scope="module")
def evaluator(mixture):
    return build_evaluator(MixturePoints(name="ring", mixture=mixture), samples=500, subsets=8)


def exact(mixture):
    """Noise `[b 3]` to draws of the mixture, by its own formula."""

    def sample(noise):
        mode = (torch.special.ndtr(noise[:, 0]) * mixture.components).long()
        mode = mode.clamp(max=mixture.components - 1)
        return mixture.means[mode] + mixture.stds[mode, None] * noise[:, 1:]

    return sample


def test_an_exact_sampler_is_measured_at_the_truth(mixture, evaluator):
    found = measure(exact(mixture), evaluator, noise_shape=(3,))
    assert found.samples.shape == (500, 2)
    assert found.figures["modes"].value == found.figures["modes"].ideal == 8
    quality = found.figures["high_quality"]
    assert quality.low <= quality.ideal <= quality.high
    accuracy = found.figures["c2st_accuracy"]
    assert accuracy.low <= 0.5 <= accuracy.high
    assert found.cost.calls is None
    assert found.cost.batch == 256
    assert found.cost.seconds.value > 0


def test_a_sampler_of_ours_tells_its_calls_and_a_module_its_operations(mixture, evaluator):
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    found = measure(SinglePass(network_of(network), (3,)), evaluator, batch=100)
    assert found.cost.calls == Cost(generator=1)
    assert found.cost.flops == 2 * 3 * 2
    assert not found.samples.requires_grad
    plain = measure(network, evaluator, noise_shape=(3,), batch=100)
    torch.testing.assert_close(plain.samples, found.samples)
    assert plain.figures == found.figures


def network_of(network):
    return lambda noise, label=None: network(noise)


def test_labels_reach_the_sampler_in_the_batches_of_their_noise(evaluator):
    label = torch.arange(500) % 4
    seen = []

    def sampler(noise, given):
        seen.append(given)
        return torch.stack([given, noise[:, 0]], dim=1).float()

    found = measure(sampler, evaluator, noise_shape=(1,), label=label, batch=200)
    torch.testing.assert_close(found.samples[:, 0], label.float())
    assert [len(part) for part in seen[:3]] == [200, 200, 100]


def test_data_of_ones_own_are_two_tensors_and_features():
    rng = torch.Generator().manual_seed(0)
    train, held_out = torch.rand(2, 120, 3, 4, 4, generator=rng) * 2 - 1

    def colours(x):
        return x.mean(dim=(2, 3))

    found = measure(
        lambda noise: noise.clamp(-1, 1),
        (train, held_out),
        noise_shape=(3, 4, 4),
        features=colours,
        samples=100,
        subsets=4,
    )
    distance = found.figures["frechet_distance"]
    assert distance.value > distance.floor
    assert "memorisation" in found.figures
    assert any("two-sample test" in sentence for sentence in found.warnings)


def test_what_cannot_be_measured_is_refused(evaluator):
    with pytest.raises(ValueError, match="give noise_shape"):
        measure(lambda noise: noise, evaluator)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        measure(lambda noise: noise, evaluator, noise_shape=(2,), batch=0)
    with pytest.raises(ValueError, match=r"expected labels \[500\], got \[3\]"):
        measure(lambda noise, label: noise, evaluator, noise_shape=(2,), label=torch.zeros(3))
    with pytest.raises(ValueError, match="expected examples"):
        measure(lambda noise: noise, evaluator, noise_shape=(5,))
    with pytest.raises(ValueError, match=r"as many samples, a tensor; got 3 samples"):
        measure(lambda noise: noise[:3], evaluator, noise_shape=(2,))
    with pytest.raises(ValueError, match="got a dict"):
        measure(lambda noise: {"images": noise}, evaluator, noise_shape=(2,))
    with pytest.raises(ValueError, match="give them to build_evaluator"):
        measure(lambda noise: noise, evaluator, noise_shape=(2,), samples=100)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.zeros(50, 1, 8, 8, dtype=torch.uint8), "got torch.uint8: bytes become"),
        (torch.rand(50, 1, 8, 8), "expected images in .-1, 1., got values from"),
        (5 * torch.randn(50, 1, 8, 8), "rescale them"),
        (None, "got NoneType"),
    ],
)
def test_images_that_are_not_between_minus_one_and_one_are_refused(images, sentence):
    with pytest.raises(ValueError, match=sentence):
        measure(lambda noise: noise, (images, images), noise_shape=(1, 8, 8))


def test_a_measurement_is_printed_as_a_table(mixture, evaluator):
    found = measure(exact(mixture), evaluator, noise_shape=(3,))
    lines = str(found).splitlines()
    assert lines[0].split() == ["measured", "95", "%", "interval", "floor", "ideal"]
    assert any(line.startswith("modes") and line.split()[1] == "8" for line in lines)
    assert any("ms a sample in batches of 256" in line for line in lines)
