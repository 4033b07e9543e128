"""Alarms and the stopping rule, on histories that are written down."""

import json
import math
from pathlib import Path

import pytest
import torch

from hybridgen.errors import InputError
from hybridgen.evaluation.alarms import (
    ADVICE,
    alarms,
    best_step,
    changes,
    effective_number,
    ending,
    evaluations,
    first_alarms,
    shift,
)
from hybridgen.evaluation.settings import Alarms, Stopping

EVEN, ONE, OTHER, HALF = [0.125] * 8, [1] + [0] * 7, [0] * 7 + [1], [0.5, 0.5] + [0] * 6
HEALTHY = json.loads(Path(__file__).with_name("healthy.json").read_text())
POINTS = {"floor_sliced_wasserstein": 0.04, "floor_reverse_kl": 0.002}


def history(distances, shares=None, **columns):
    """Rows of a log, one evaluation every 100 steps and two rows of losses before each."""
    rows = []
    for i, distance in enumerate(distances):
        row = {"step": 100 * (i + 1), "sliced_wasserstein": distance, **POINTS}
        losses = {name: values[i] for name, values in columns.items()}
        histogram = (shares or [EVEN] * len(distances))[i]
        rows += [{"step": row["step"] - 50, **losses}, {"step": row["step"], **losses}]
        rows += [row | {"shares": " ".join(map(str, histogram))}]
    return rows


def raised(rows, **settings):
    """Step by step, which kinds were raised: kind -> the evaluations, counted from 1."""
    times = {}
    ends = [i + 1 for i, row in enumerate(rows) if any(k.startswith("floor_") for k in row)]
    for number, end in enumerate(ends, 1):
        for alarm in alarms(rows[:end], Alarms(**settings)):
            times.setdefault(alarm.kind, []).append(number)
    return times


FALLING = [0.5, 0.3, 0.2, 0.15, 0.12, 0.1, 0.09, 0.08]


def test_a_history_that_gets_better_raises_nothing():
    losses = {"discriminator": [0.68, 0.66] * 4, "sign_accuracy": [0.5] * 8, "r1": [0.1] * 8}
    assert raised(history(FALLING, **losses)) == {}


@pytest.mark.parametrize("name", HEALTHY)
def test_recorded_trainings_that_went_well_raise_nothing(name):
    assert raised(HEALTHY[name]) == {}


def test_a_collapse_is_raised_at_its_second_evaluation_with_its_first_step():
    shares = [EVEN] * 4 + [ONE] * 4
    assert raised(history(FALLING, shares))["collapse"] == [6, 7, 8]
    (alarm,) = alarms(history(FALLING[:6], shares[:6]), Alarms())
    assert alarm.since == 500
    assert "collapse since step 500: samples are spread as over 1.0 of 8 modes" in alarm.sentence
    assert ADVICE["collapse"] in alarm.sentence


def test_one_evaluation_that_looks_collapsed_is_noise():
    assert raised(history(FALLING, [EVEN, EVEN, ONE, EVEN, EVEN, ONE, EVEN, EVEN])) == {}


def test_modes_that_were_never_there_are_missed_once_a_training_is_not_young():
    assert raised(history(FALLING, [HALF] * 8))["collapse"] == [4, 5, 6, 7, 8]
    assert raised(history(FALLING, [HALF] * 8), patience=5)["collapse"] == [6, 7, 8]


@pytest.mark.parametrize("figure", ["coverage", "recall"])
def test_images_without_classes_collapse_by_coverage_and_recall(figure):
    values = [0.1, 0.5, 0.6, 0.25, 0.2]
    rows = [{"step": i, "floor_x": 1.0, figure: value} for i, value in enumerate(values, 1)]
    assert raised(rows) == {"collapse": [5]}


def test_hopping_is_the_same_change_of_modes_twice_in_a_row():
    shares = [EVEN] * 4 + [ONE, OTHER, ONE, OTHER]
    times = raised(history(FALLING, shares))
    assert times["hopping"] == [6, 7, 8] and times["collapse"] == [6, 7, 8]
    assert raised(history(FALLING, [ONE, OTHER] * 4))["hopping"] == [5, 6, 7, 8]  # not while young
    broad = [*[0.25] * 4, *[0.0] * 4]
    spread = [EVEN] * 3 + [broad, broad[::-1], EVEN, broad, EVEN]
    assert raised(history(FALLING, spread)) == {"hopping": [5]}
    assert "hopping" not in raised(history(FALLING, [EVEN] * 4 + [ONE] * 4))


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
@pytest.mark.parametrize("name", ["sliced_wasserstein", "generator"])
def test_what_is_not_finite_is_raised_at_once(bad, name):
    rows = history(FALLING, generator=[0.7] * 8)
    rows[-1 if name == "sliced_wasserstein" else -2] |= {name: bad}
    (alarm,) = [alarm for alarm in alarms(rows, Alarms()) if alarm.kind == "divergence"]
    assert f"{name} is not finite" in alarm.sentence


def test_an_infinite_divergence_of_modes_is_a_training_that_has_not_begun():
    rows = history(FALLING)
    rows[2]["reverse_kl"] = None
    assert raised(rows) == {}


def test_a_loss_far_from_what_it_was_is_raised_at_the_second_evaluation():
    steady, wild = [0.70, 0.71, 0.69, 0.70, 0.71], [9.0, 20.0, 400.0]
    times = raised(history(FALLING, generator=steady + wild))
    assert times == {"divergence": [7, 8]}
    assert raised(history(FALLING, generator=[*steady, 9.0, 0.7, 0.7])) == {}


def test_logits_too_far_apart_are_raised():
    real, fake = [1.0] * 5 + [40.0] * 3, [-1.0] * 5 + [-40.0] * 3
    assert raised(history(FALLING, logit_real=real, logit_fake=fake)) == {"divergence": [7, 8]}


def test_a_discriminator_that_knows_training_examples_by_heart_is_raised():
    rows = history(FALLING)
    for row, value in zip(rows[2::3], [0.5, 0.55, 0.8, 0.6, 0.7, 0.8, 0.85, 0.9], strict=True):
        row["overfit_rank"] = value
    assert raised(rows) == {"overfitting": [7, 8]}


def test_a_generator_is_stuck_where_it_does_not_leave_its_start_or_never_fools_anyone():
    assert raised(history([0.5, 0.48, 0.5, 0.47, 0.5, 0.6]))["stuck"] == [4, 5, 6]
    flat = [0.5, 0.3, 0.3, 0.31, 0.3, 0.3, 0.31, 0.3]
    assert raised(history(flat)) == {}
    assert raised(history(flat, sign_accuracy=[0.99] * 8))["stuck"] == [5, 6, 7, 8]
    good = [0.1, 0.11, 0.1, 0.1, 0.1]
    assert raised(history(good)) == {}  # nothing to gain: near the floor of .04 from the start


def test_the_best_evaluation_has_the_least_distance_and_is_the_first_of_equals():
    assert best_step(history([0.5, 0.2, 0.3, 0.2])) == 200
    assert best_step(history([None, 0.2, math.nan])) == 200
    assert best_step([]) is None and best_step([{"step": 1, "generator": 0.1}]) is None


def test_a_run_ends_when_its_patience_is_over_or_an_alarm_may_end_it():
    rows, quiet = history([0.5, 0.2, 0.3, 0.2, 0.25]), Alarms()
    assert ending(rows, quiet, Stopping()) == ""
    assert ending(rows, quiet, Stopping(patience=4)) == ""
    assert "the 3 evaluations since step 200" in ending(rows, quiet, Stopping(patience=3))
    stuck = history([0.5] * 4)
    assert ending(stuck, quiet, Stopping()) == ""
    assert "stuck since step 200" in ending(stuck, Alarms(stop=True), Stopping())
    with pytest.raises(InputError, match="enabled false raises none"):
        Alarms(stop=True, enabled=False)


def test_losses_between_evaluations_become_their_medians():
    rows = [{"step": n, "generator": v} for n, v in ((1, 5.0), (2, 1.0), (3, 2.0))]
    rows += [{"step": 3, "kid": 0.1, "floor_kid": 0.0}, {"step": 4, "generator": 9.0}]
    (entry,) = evaluations(rows)
    losses = entry.pop("losses")
    assert losses["generator"] == 2.0
    assert entry == {"step": 3, "kid": 0.1, "floor_kid": 0.0}


def test_histograms():
    assert effective_number(EVEN) == pytest.approx(8)
    assert effective_number(ONE) == pytest.approx(1)
    p = torch.tensor([0.5, 0.3, 0.2, 0.0])
    entropy = torch.distributions.Categorical(p).entropy()
    assert effective_number(p.tolist()) == pytest.approx(float(entropy.exp()), rel=1e-6)
    assert shift(ONE, OTHER) == 1 and shift(EVEN, EVEN) == 0
    assert shift(HALF, ONE) == 0.5
    assert changes(history([0.5, 0.4], [HALF, ONE])) == {"mode_shift": 0.5}
    assert changes(history([0.5])) == {}


def test_the_first_alarm_of_each_kind_is_remembered():
    rows = [{"step": 1, "alarm_stuck": 0.0}, {"step": 2, "alarm_stuck": 1.0}]
    rows += [{"step": 3, "alarm_stuck": 1.0, "alarm_collapse": 1.0}]
    assert first_alarms(rows) == {"alarm_stuck": 2, "alarm_collapse": 3}


def test_a_patience_of_one_asks_for_one_usual_value():
    assert raised(history(FALLING, r1=[0.1] * 8), patience=1) == {}


def test_a_quantity_that_begins_late_is_watched_from_then_on():
    rows = history(FALLING, generator=[1.0] * 5 + [1e4] * 3)
    for row in rows[:3]:
        row.pop("generator", None)
    assert raised(rows) == {"divergence": [7]}
    assert raised(history(FALLING, weight=[0.0] * 3 + [0.1] * 5)) == {}


def test_logits_that_began_as_far_apart_are_those_of_a_wasserstein_game():
    real = [60.0, 58.0, 57.0, 56.0, 55.0, 54.0, 53.0, 52.0]
    assert raised(history(FALLING, logit_real=real, logit_fake=[0.0] * 8)) == {}
    assert "divergence" in raised(history(FALLING, logit_real=[1.0, *real[1:]], logit_fake=[0] * 8))


def test_reconstructions_whose_floor_is_zero_are_not_stuck():
    values = enumerate([0.05, 0.048, 0.047, 0.0465, 0.046, 0.046], start=1)
    assert raised([{"step": 100 * i, "l1": value, "floor_l1": 0.0} for i, value in values]) == {}
