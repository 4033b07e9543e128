import math

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from hybridgen import AdversarialLoss, load_network
from hybridgen.errors import InputError
from hybridgen.networks.dcgan import DcganDiscriminator, DcganGenerator
from hybridgen.networks.mlp import MlpGenerator
from hybridgen.training import checkpoint
from hybridgen.training.optim import EMA, TrainingSetup
from hybridgen.training.settings import Cosine, GuideTraining, OptimSettings


def constant(value: float) -> nn.Linear:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(value)
    return model


def set_to(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(value)


def test_after_a_half_life_the_weights_of_then_count_half():
    model = constant(1.0)
    average = EMA(model, half_life=1_000, ramp=1e9)
    average.update(seen=100, images=100)
    set_to(model, 0.0)
    for seen in range(200, 1_200, 100):
        average.update(seen=seen, images=100)
    torch.testing.assert_close(average.module.weight, torch.full((1, 2), 0.5))
    average.update(seen=3_100, images=2_000)
    torch.testing.assert_close(average.module.bias, torch.full((1,), 0.125))


def test_early_the_half_life_is_the_ramp_times_the_images_seen():
    model = constant(1.0)
    average = EMA(model, half_life=1e9, ramp=0.5)
    average.update(seen=64, images=64)
    set_to(model, 0.0)
    average.update(seen=128, images=64)  # half-life 64
    torch.testing.assert_close(average.module.bias, torch.tensor([0.5]))
    average.update(seen=256, images=64)  # half-life 128
    torch.testing.assert_close(average.module.bias, torch.tensor([0.5 * 0.5**0.5]))


def test_the_first_update_is_the_model_itself():
    model = constant(1.0)
    average = EMA(model, half_life=1e9)
    set_to(model, 7.0)
    average.update(seen=1, images=1)
    torch.testing.assert_close(average.module.bias, torch.tensor([7.0]))


def test_the_running_statistics_of_a_batch_norm_are_averaged_like_weights():
    model = nn.BatchNorm1d(1)
    average = EMA(model, half_life=10, ramp=1e9)
    for count, (mean, seen) in enumerate([(4.0, 10), (0.0, 20)], start=1):
        model.running_mean.fill_(mean)
        model.num_batches_tracked.fill_(10 * count)
        average.update(seen=seen, images=10)
    torch.testing.assert_close(average.module.running_mean, torch.tensor([2.0]))
    assert average.module.num_batches_tracked.dtype == torch.int64
    assert average.module.num_batches_tracked == 20


def test_the_average_is_a_copy_in_eval_mode_that_wants_no_gradients():
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    average = EMA(model, half_life=1)
    assert not any(m.training for m in average.module.modules())
    assert not any(p.requires_grad for p in average.module.parameters())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert average.module[0].weight is not model[0].weight


def test_an_average_goes_on_from_its_saved_weights():
    model = MlpGenerator(width=4, depth=1)
    average = EMA(model, half_life=30, ramp=1e9)
    average.update(seen=10, images=10)
    set_to(model, 3.0)
    average.update(seen=20, images=10)
    other = EMA(model, half_life=30, ramp=1e9)
    other.module.load_state_dict(average.module.state_dict())
    set_to(model, -1.0)
    for each in (average, other):
        each.update(seen=30, images=10)
    for a, b in zip(average.module.parameters(), other.module.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, torch.full_like(a, -1.0))


@pytest.mark.parametrize(("half_life", "ramp"), [(0, 1), (-1, 1), (1, 0)])
def test_a_half_life_or_ramp_that_is_not_positive_is_refused(half_life, ramp):
    with pytest.raises(ValueError, match="must be positive"):
        EMA(nn.Linear(1, 1), half_life, ramp)


value = st.floats(0, 1e3)


@given(value, value, st.floats(0.01, 1))
def test_a_schedule_begins_at_its_start_and_stays_at_its_end_from_until_on(start, end, until):
    schedule = Cosine(start=start, end=end, until=until)
    assert schedule(0) == pytest.approx(start)
    for progress in (until, (until + 1) / 2, 1.0):
        assert schedule(progress) == pytest.approx(end, abs=1e-9)


def test_a_third_of_the_way_is_a_quarter_of_the_fall():
    schedule = Cosine(start=5.0, end=1.0, until=0.6)
    assert schedule(0.2) == pytest.approx(5 - 4 * 0.25)
    assert schedule(0.3) == pytest.approx(3.0)
    assert schedule(0.4) == pytest.approx(1 + 4 * 0.25)


@given(value, st.floats(0, 1))
def test_without_an_end_nothing_changes(start, progress):
    assert Cosine(start=start)(progress) == start


@given(value, value)
def test_the_greatest_value_is_at_one_of_the_ends(start, end):
    assert Cosine(start=start, end=end).greatest == max(start, end)
    assert Cosine(start=start).greatest == start


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_falling_schedule_never_rises(a, b):
    schedule = Cosine(start=2.0, end=0.0, until=0.7)
    assert schedule(max(a, b)) <= schedule(min(a, b)) + 1e-12


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"start": -1.0}, r"start must be a number in \[0, 1e\+09\], got -1.0"),
        ({"start": 1.0, "end": -0.1}, r"end must be a number in \[0, 1e\+09\] or null, got -0.1"),
        ({"start": math.nan}, "start must be .* got nan"),
        ({"start": 1.0, "end": math.inf}, "end must be .* got inf"),
        ({"start": 1.0, "until": 0.0}, r"\(0, 1\], got 0.0"),
        ({"start": 1.0, "until": 1.5}, r"\(0, 1\], got 1.5"),
    ],
)
def test_an_impossible_schedule_is_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        Cosine(**settings)


def norms(model):
    return [float(torch.linalg.matrix_norm(layer.weight, 2)) for layer in model]


@pytest.mark.parametrize("normed", [parametrizations.spectral_norm, spectral_norm])
def test_a_layer_of_spectral_norm_one_has_it_in_the_average_too(normed):
    torch.manual_seed(0)
    model = nn.Sequential(normed(nn.Linear(6, 8)), normed(nn.Linear(8, 5)))
    average = EMA(model, half_life=2_000, ramp=1e9)
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    for number in range(1, 201):
        target = torch.randn(16, 5)
        optimizer.zero_grad()
        (model(torch.randn(16, 6)) - target).square().mean().backward()
        optimizer.step()
        average.update(seen=16 * number, images=16)
    average.module(torch.zeros(1, 6))  # the older kind works out its weight when it is called
    assert norms(average.module) == pytest.approx([1, 1], abs=0.02)
    assert not any(part.training for part in average.module.modules())


def test_singular_vectors_follow_the_averaged_weight_and_not_the_models():
    torch.manual_seed(0)
    model = parametrizations.spectral_norm(nn.Linear(6, 8))
    average = EMA(model, half_life=1e6, ramp=1e9)
    average.update(seen=1, images=1)
    for number in range(2, 60):  # the model goes elsewhere, the average stays where it was
        with torch.no_grad():
            model.parametrizations.weight.original.copy_(torch.randn(8, 6))
        model(torch.zeros(1, 6))
        average.update(seen=number, images=1)
    assert norms([average.module]) == pytest.approx([1], abs=1e-3)


def pictures(**settings):
    """A setup of a small GAN for images, and its generator."""
    torch.manual_seed(len(settings))
    size = {"resolution": 8, "channels": 1, "width": 8}
    generator, loss = DcganGenerator(latent=3, **size), AdversarialLoss(DcganDiscriminator(**size))
    config, networks = OptimSettings(**settings), {"generator": generator, "discriminator": loss}
    return TrainingSetup(Accelerator(cpu=True), config, **networks), generator


def test_channels_innermost_are_kept_through_training_files_and_back(tmp_path):
    setup, generator = pictures(channels_last=True)
    convolutions = [p for p in generator.parameters() if p.ndim == 4 and p.shape[1] > 1]
    before = [p.detach().clone() for p in convolutions]
    for (noise,) in setup.micro_batches(["generator"], torch.randn(4, 3)):
        setup.backward({"total": generator(noise).square().mean()})
    setup.update(["generator"], [{"total": torch.ones(())}], 1)
    assert not all(torch.equal(p, b) for p, b in zip(convolutions, before, strict=True))
    checkpoint.write(tmp_path / "checkpoints", 1, setup.state)
    checkpoint.save_network(generator, tmp_path / "generator")
    assert convolutions and all(
        p.is_contiguous(memory_format=torch.channels_last) for p in convolutions
    )
    other, plain = pictures()
    newest, _ = checkpoint.newest(tmp_path / "checkpoints")
    newest.restore(other.state)
    for network in (plain, load_network(tmp_path / "generator")):
        for a, b in zip(generator.parameters(), network.parameters(), strict=True):
            assert torch.equal(a, b) and b.is_contiguous()


def test_the_generator_is_compiled_and_neither_the_discriminator_nor_the_average(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    _, generator = pictures(compile=True)
    assert compiled == [generator]
    with pytest.raises(InputError, match="a guide is a discriminator"):
        GuideTraining(compile=True)
