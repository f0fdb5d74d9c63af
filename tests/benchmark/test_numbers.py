import pytest

from benchmark.attention.interleave import in_turns
from benchmark.attention.spread import fastest, ratios, spread


def test_the_quartiles_of_one_number_are_that_number():
    only = spread([3.0])
    assert (only.low, only.middle, only.high) == (3.0, 3.0, 3.0)


def test_quartiles_do_not_depend_on_the_order():
    found = spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.low, found.middle, found.high) == (2.0, 3.0, 4.0)


def test_ratios_are_taken_round_by_round():
    # The machine was half as fast in the second round: for both.
    assert ratios([2.0, 4.0, 2.0], [1.0, 2.0, 1.0]).middle == 2.0


def test_ratios_of_different_rounds_are_refused():
    with pytest.raises(ValueError, match="argument 2"):
        ratios([1.0, 2.0], [1.0])


def test_the_fastest_is_found_in_each_round():
    assert fastest([[3.0, 1.0], [2.0, 5.0]]) == [2.0, 1.0]


def test_all_have_as_many_turns_in_changing_orders():
    order: list[str] = []
    runs = [lambda name=name: order.append(name) for name in "abc"]
    times = in_turns(runs, [1.0] * 3, budget=0.0, rounds=(9, 9))
    assert [len(each) for each in times] == [9, 9, 9]
    rounds = ["".join(order[start : start + 3]) for start in range(0, 27, 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert {each[0] for each in rounds} == set("abc")


def test_short_runs_are_repeated_in_their_turn_behind_one_that_does_not_count():
    calls = {"long": 0, "short": 0}

    def counted(name):
        return lambda: calls.update({name: calls[name] + 1})

    in_turns(
        [counted("long"), counted("short")],
        [1.0, 0.001],
        budget=0.0,
        rounds=(3, 3),
        shortest=0.004,
    )
    assert calls == {"long": 3, "short": 3 * (1 + 4)}


def test_rounds_follow_the_budget_within_their_bounds():
    def rounds(budget):
        return len(in_turns([lambda: None], [1.0], budget=budget, rounds=(3, 9))[0])

    assert [rounds(0.0), rounds(5.0), rounds(100.0)] == [3, 5, 9]
