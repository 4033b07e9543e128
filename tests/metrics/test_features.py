import json
import math
from importlib.resources import files

import pytest
import torch
import torch.nn.functional as F

from hybridgen.data.images import digits
from hybridgen.maths.mixtures import reverse_kl
from hybridgen.metrics.features import (
    SHIPPED,
    LeNet,
    count_classes,
    extract,
    feature_network,
)

WEIGHTS = files("hybridgen.metrics") / "weights"


def recorded(name):
    return json.loads((WEIGHTS / name / "result.json").read_text())


def test_the_shipped_network_reaches_its_recorded_accuracy_on_held_out_digits():
    x, label = digits().reference("held_out", 297)
    network = feature_network((1, 8, 8))
    accuracy = (extract(network, x)[1] == label).double().mean()
    assert accuracy == pytest.approx(recorded("digits")["accuracy"], abs=1e-9)
    assert accuracy >= 0.985


def test_the_shipped_network_of_mnist_reads_enlarged_digits_it_has_never_seen():
    assert recorded("mnist")["accuracy"] >= 0.99
    x, label = digits().reference("held_out", 297)
    large = F.interpolate(x, size=(20, 20), mode="bicubic").clamp(-1, 1)
    framed = F.pad(large, (4, 4, 4, 4), value=-1.0)
    network = feature_network((1, 28, 28))
    assert (extract(network, framed)[1] == label).double().mean() > 0.7


@pytest.mark.parametrize("name", SHIPPED.values())
def test_shipped_weights_are_small_single_precision_safetensors(name):
    folder = WEIGHTS / name
    assert {f.name for f in folder.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "result.json",
    }
    assert len((folder / "diffusion_pytorch_model.safetensors").read_bytes()) < 500_000
    network = feature_network({v: k for k, v in SHIPPED.items()}[name])
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_features_of_the_training_digits_have_mean_0_and_variance_1():
    x, _ = digits().reference("train", 1_500)
    features, _ = extract(feature_network((1, 8, 8)), x)
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(64), rtol=0, atol=1e-3)
    torch.testing.assert_close(features.var(dim=0), torch.ones(64), rtol=1e-3, atol=0)


def test_standardising_changes_mean_and_variance_and_nothing_else():
    torch.manual_seed(0)
    network = LeNet(resolution=28).requires_grad_(False).eval()
    network.linear.weight.mul_(1_000)  # so that the batch norm's epsilon does not show
    x = torch.rand(40, 1, 28, 28) * 2 - 1
    before = network(x)
    expected = (before - before.mean(dim=0)) / before.std(dim=0)
    for _ in range(2):  # a second time starts from the first one's result
        network.standardise_over(x)
        torch.testing.assert_close(network(x), expected, rtol=0, atol=2e-3)


def test_a_lenet_comes_back_from_its_folder_unchanged(tmp_path):
    network = LeNet(resolution=8, classes=4).eval()
    x = torch.rand(3, 1, 8, 8)
    network.standardise_over(torch.rand(9, 1, 8, 8))
    network.save_pretrained(tmp_path)
    again = LeNet.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    assert torch.equal(again(x), network(x))
    assert again.logits(again(x)).shape == (3, 4)


def test_the_order_and_the_slices_of_images_do_not_matter():
    x, _ = digits().reference("held_out", 50)
    network = feature_network((1, 8, 8))
    whole, sliced = extract(network, x)[0], extract(network, x.flip(0), batch=7)[0].flip(0)
    torch.testing.assert_close(whole, sliced)


def test_other_shapes_have_no_network_and_are_refused():
    assert feature_network((3, 28, 28)) is None
    assert feature_network((2,)) is None
    with pytest.raises(ValueError, match=r"\[b 1 8 8\], got \(2, 1, 9, 9\)"):
        feature_network((1, 8, 8))(torch.zeros(2, 1, 9, 9))
    with pytest.raises(ValueError, match="resolution=32"):
        LeNet(resolution=32)


def test_equal_classes_cost_nothing_and_one_class_the_logarithm_of_their_number():
    equal, one = torch.arange(10).repeat(7), torch.full((70,), 3)
    assert reverse_kl(count_classes(equal, 10)) == pytest.approx(0, abs=1e-12)
    assert reverse_kl(count_classes(one, 10)) == pytest.approx(math.log(10))
    assert reverse_kl(count_classes(equal[equal < 9], 10)) == pytest.approx(math.log(10 / 9))


def test_classes_that_never_occur_have_a_bin():
    assert count_classes(torch.tensor([2, 2, 0]), 4).tolist() == [1, 0, 2, 0]
    with pytest.raises(ValueError, match="labels from 0 to 3"):
        count_classes(torch.tensor([4]), 4)
