"""Ways to samples as settings name them: combinations, words, refusals."""

import pytest

from hybridgen.errors import InputError
from hybridgen.evaluation.settings import Budget, Method


def test_a_method_has_every_combination_of_its_budgets():
    method = Method(
        name="m",
        model="d",
        guide="g",
        discriminator="c",
        calls=(4, 6),
        scales=(1.0, 2.0),
        rounds=(3,),
    )
    assert [(b.calls, b.scale, b.rounds) for b in method.budgets(9.0)] == [
        (4, 1.0, 3),
        (4, 2.0, 3),
        (6, 1.0, 3),
        (6, 2.0, 3),
    ]
    assert method.models == ("d", "g", "c")


def test_a_guide_is_asked_at_its_own_scale_unless_told_otherwise():
    guided = Method(name="m", model="d", guide="g", calls=(4,))
    assert [b.scale for b in guided.budgets(1.5)] == [1.5]
    plain = Method(name="m", model="d", calls=(4,))
    assert [b.scale for b in plain.budgets(1.5)] == [None]


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(calls=0, scale=None, rounds=0), ""),
        (Budget(calls=10, scale=None, rounds=0), "10 calls"),
        (Budget(calls=10, scale=0.5, rounds=1), "10 calls, scale 0.5, 1 round"),
        (Budget(calls=0, scale=None, rounds=8), "8 rounds"),
    ],
)
def test_a_budget_is_said_in_words(budget, words):
    assert budget.words == words


@pytest.mark.parametrize(("sampler", "calls", "steps"), [("heun", 17, 9), ("edm_dpmpp", 17, 17)])
def test_steps_follow_from_the_calls(sampler, calls, steps):
    assert Method(name="m", model="d", sampler=sampler).sampler_settings(calls).steps == steps


def test_a_sampler_of_second_order_makes_no_even_number_of_calls():
    with pytest.raises(InputError, match="odd number of calls, so 4 is not"):
        Method(name="m", model="d", sampler="heun").sampler_settings(4)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"calls": (0,)}, "calls must be a list .* got \\(0,\\)"),
        ({"rounds": (2,)}, "takes a discriminator and rounds, got discriminator None"),
        (
            {"discriminator": "c"},
            "takes a discriminator and rounds, got discriminator c and rounds \\[\\]",
        ),
        ({"scales": (1.0,)}, "need a guide"),
        ({"guide": "g", "scales": (float("nan"),)}, "scales must be a list .* got \\(nan,\\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        Method(name="m", model="d", **wrong)


def test_runs_that_nobody_named_are_refused():
    with pytest.raises(InputError, match="no run is called 'g'; there are c, d"):
        Method(name="m", model="d", guide="g", calls=(4,)).check_names(["d", "c"])
