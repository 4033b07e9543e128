"""Batches and parts of samples that are in memory."""

from itertools import islice

import pytest
import torch

from hybridgen.data.images import digits
from hybridgen.data.points import MixturePoints
from hybridgen.data.resident import set_apart, shuffled
from hybridgen.errors import InputError
from hybridgen.maths.mixtures import ring

X, LABEL = torch.arange(10.0)[:, None], torch.arange(10)


def test_an_epoch_of_batches_shows_every_sample_once_with_its_label():
    batches = list(islice(shuffled(X, LABEL, batch=5, seed=1), 2))
    rows = torch.cat([x[:, 0] for x, _ in batches])
    assert torch.equal(rows.sort().values, X[:, 0])
    assert all(torch.equal(x[:, 0].long(), label) for x, label in batches)


def test_batches_can_begin_anywhere_and_be_shared():
    whole = list(islice(shuffled(X, batch=4, seed=1), 5))
    later = next(shuffled(X, batch=4, seed=1, start=3))
    assert torch.equal(later[0], whole[3][0]) and later[1] is None
    halves = [next(shuffled(X, batch=4, seed=1, start=3, rank=r, world=2))[0] for r in (0, 1)]
    assert torch.equal(torch.cat(halves), later[0])


def test_a_batch_larger_than_all_there_is_is_refused():
    with pytest.raises(InputError, match="batch of 11 is larger"):
        shuffled(X, batch=11, seed=0)


def test_what_is_set_apart_is_a_part_of_the_training_examples_and_not_of_the_rest():
    source = digits(labelled=True)
    chosen = set_apart(source, 0.2)
    assert (len(chosen.train), len(chosen.held_out)) == (1_200, 300)

    def known(images):
        return {image.numpy().tobytes() for image in images}

    both = known(chosen.train) | known(chosen.held_out)
    assert both == known(source.train)
    assert not known(chosen.held_out) & known(chosen.train)
    assert len(chosen.held_out_labels) == 300 and chosen.classes == 10
    assert torch.equal(set_apart(source, 0.2).held_out, chosen.held_out)


def test_points_are_drawn_afresh_and_need_no_part():
    source = MixturePoints(mixture=ring(), name="ring")
    assert set_apart(source, 0.2) is source
