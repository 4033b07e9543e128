import math

import pytest
import torch

from hybridgen.evaluation.classes import class_histogram, class_reverse_kl, count_classes
from hybridgen.evaluation.features import LeNet


def test_equal_classes_cost_nothing_and_one_class_the_logarithm_of_their_number():
    assert class_reverse_kl(torch.arange(10).repeat(7), 10) == pytest.approx(0, abs=1e-12)
    assert class_reverse_kl(torch.full((70,), 3), 10) == pytest.approx(math.log(10))
    assert class_reverse_kl(torch.arange(9).repeat(7), 10) == pytest.approx(math.log(10 / 9))


def test_classes_that_never_occur_have_a_bin():
    assert count_classes(torch.tensor([2, 2, 0]), 4).tolist() == [1, 0, 2, 0]
    with pytest.raises(ValueError, match="labels from 0 to 3"):
        count_classes(torch.tensor([4]), 4)


def test_the_histogram_counts_what_the_network_recognises():
    torch.manual_seed(0)
    network = LeNet(resolution=8, classes=3).eval()
    x = torch.rand(50, 1, 8, 8) * 2 - 1
    predicted = [int(network.logits(network(image[None])).argmax()) for image in x]
    expected = [predicted.count(c) for c in range(3)]
    assert class_histogram(network, x).tolist() == expected
