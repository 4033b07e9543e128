import time

import pytest
import torch

from hybridgen.evaluation.timing import (
    clock_for,
    median_interval,
    ratio_of_medians,
    take_turns,
)


def test_a_ratio_of_medians_ignores_what_slows_both_for_a_while():
    under = [1.0] * 30 + [9.0] * 10
    over = [2 * seconds for seconds in under]
    assert ratio_of_medians(over, under) == (2, 2, 2)


def test_the_interval_holds_the_ratio_and_narrows_with_more_rounds():
    draws = torch.Generator().manual_seed(0)

    def interval(rounds):
        over, under = (1 + 0.1 * torch.randn(2, rounds, generator=draws)).tolist()
        value, low, high = ratio_of_medians(over, under)
        assert low < value < high
        return low, high

    (low, high), (closer_low, closer_high) = interval(20), interval(2_000)
    assert closer_low < 1.005
    assert closer_high > 0.995
    assert closer_high - closer_low < (high - low) / 4


def test_everything_has_its_turn_in_every_round_and_the_first_round_does_not_count():
    order, now = [], [0.0]

    def task(name, cost):
        order.append(name)
        now[0] += cost if len(order) > 3 else 100.0

    costs = {"a": 1.0, "b": 2.0, "c": 3.0}
    tasks = {name: lambda n=name, c=cost: task(n, c) for name, cost in costs.items()}
    rounds = take_turns(tasks, 3, lambda: now[0], lambda: order.append("|"))
    assert "".join(order) == "abc|bca|cab|abc|"
    assert rounds == {"a": [1.0] * 3, "b": [2.0] * 3, "c": [3.0] * 3}


def test_tasks_with_fewer_turns_sit_rounds_out_evenly():
    order = []
    tasks = {name: lambda n=name: order.append(n) for name in "abc"}
    rounds = take_turns(tasks, {"a": 6, "b": 2, "c": 3}, lambda: 0.0, lambda: order.append("|"))
    assert {name: len(seconds) for name, seconds in rounds.items()} == {"a": 6, "b": 2, "c": 3}
    assert "".join(order) == "abc|a|ca|ab|ca|a|abc|"


def test_the_interval_of_a_median_is_that_of_the_sign_test():
    def ranks(n):
        return median_interval([float(i) for i in range(n, 0, -1)])

    # From printed tables of the sign test; five rounds cannot reach 95 %.
    assert ranks(5) == (3, 1, 5)
    assert ranks(6) == (3.5, 1, 6)
    assert ranks(9) == (5, 2, 8)
    assert ranks(20) == (10.5, 6, 15)
    assert ranks(100) == (50.5, 40, 61)
    assert ranks(1) == (1, 1, 1)
    with pytest.raises(ValueError, match="at least one round"):
        median_interval([])


def test_the_interval_holds_the_median_as_often_as_it_says():
    draws = torch.rand(2_000, 12, generator=torch.Generator().manual_seed(0)).pow(5).tolist()
    held = [low <= 0.5**5 <= high for _, low, high in map(median_interval, draws)]
    assert 0.95 <= sum(held) / len(held) <= 0.98  # .961


def test_sleeping_costs_nothing_on_one_thread_and_its_time_on_two():
    for threads, least, most in ((1, 0.0, 0.03), (2, 0.05, 10.0)):
        clock = clock_for(torch.device("cpu"), threads)
        begun = clock()
        time.sleep(0.05)
        assert least <= clock() - begun <= most


@pytest.mark.parametrize(("over", "under"), [([], []), ([1.0], [1.0, 2.0])])
def test_times_of_other_rounds_are_refused(over, under):
    with pytest.raises(ValueError, match="the same rounds"):
        ratio_of_medians(over, under)
