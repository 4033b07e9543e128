import math

import pytest
from comparisons import comparison, diffusion, estimate, full, gan, guided, hybrid, refined, row

from hybridgen.evaluation.page.headline import headline

GUIDANCE, REFINEMENT, TRAINING = "Guidance by", "Refinement by", "Training with"


def said(*rows, **others):
    return headline(comparison(*rows, **others))


def about(sentences, beginning):
    return next((s for s in sentences if s.startswith(beginning)), None)


@pytest.mark.parametrize(
    ("quality", "outcome"),
    [
        (12.0, "is better than a single pass"),
        (29.0, "cannot be told apart at 1\u202f000 samples"),
        (60.0, "is worse than a single pass"),
    ],
)
def test_the_question_is_answered_first(quality, outcome):
    first = said(gan(), guided(8, quality=quality, seconds=1e-3))[0]
    assert outcome in first
    assert "at 100 times the seconds (1.00 ms against 10.0 \u00b5s a sample)" in first
    assert f"{quality:.1f} ({quality - 1:.1f} to {quality + 1:.1f})" in first.replace(
        "60 (", "60.0 ("
    )


def test_without_both_sides_there_is_no_answer_to_that():
    for rows in ([gan(), diffusion(8)], [diffusion(8), guided(8)], [refined(5), guided(8)]):
        assert not said(*rows)[0].startswith("Guided diffusion")


def test_the_best_is_better_than_the_rest_or_it_is_not():
    clear = said(row("a", quality=10), row("b", quality=20), row("c", quality=30))
    assert clear[0].startswith(
        "The lowest Fr\u00e9chet distance is that of \u201ca\u201d: 10.0 (9.0 to 11.0)"
    )
    assert "better than every other row beyond the uncertainty" in clear[0]
    close = said(row("a", quality=10, seconds=2), row("b", quality=11, seconds=1))
    assert "better" not in close[0]
    assert "cannot be told apart from one other row at 1\u202f000 samples" in close[0]
    assert "the cheapest of which is \u201cb\u201d at 1.00 s" in close[0]


def test_the_floor_is_mentioned_where_there_is_one():
    floored = row("a", figures={"frechet_distance": estimate(12.0, floor=10.0)})
    sentences = said(floored, row("b", quality=30))
    assert "floor 10" in sentences[0]
    assert "The floor is what as many real examples get." in sentences[-1]
    assert "floor" not in " ".join(said(row("a"), row("b")))


def test_the_cheapest_is_set_beside_the_best():
    sentences = said(row("best", quality=10, seconds=2), row("cheap", quality=30, seconds=0.5))
    assert sentences[1] == (
        "The cheapest is \u201ccheap\u201d, 500 ms a sample: Fr\u00e9chet distance 30.0 "
        "(29.0 to 31.0), worse beyond the uncertainty; the best takes 4 times the seconds."
    )
    both = said(row("best", quality=10, seconds=0.1), row("other", quality=30, seconds=1))
    assert both[1] == "\u201cbest\u201d also takes the least time a sample."


@pytest.mark.parametrize(
    ("quality", "outcome"),
    [(10.0, "better"), (20.5, "not told apart at 1\u202f000 samples"), (40.0, "worse")],
)
@pytest.mark.parametrize(
    ("changed", "base", "beginning"),
    [
        (lambda q: guided(8, quality=q), diffusion(8, quality=20.0), GUIDANCE),
        (lambda q: refined(5, quality=q), gan(quality=20.0), REFINEMENT),
        (lambda q: hybrid(8, quality=q), diffusion(8, quality=20.0), TRAINING),
    ],
)
def test_a_change_is_called_what_its_figures_show(changed, base, beginning, quality, outcome):
    sentence = about(said(base, changed(quality)), beginning)
    assert f": {outcome}. \u201c{changed(quality).name}\u201d has" in sentence
    assert f"against 20.0 (19.0 to 21.0) for \u201c{base.name}\u201d" in sentence
    for other in {"better", "worse", "not told apart"} - {outcome.split(" at ")[0]}:
        assert other not in sentence


def test_several_comparisons_are_counted_and_one_is_shown():
    base = [diffusion(n, quality=q) for n, q in ((4, 80.0), (8, 40.0), (16, 20.0))]
    trained = [hybrid(n, quality=q) for n, q in ((4, 50.0), (8, 40.5), (16, 30.0))]
    sentence = about(said(*base, *trained), TRAINING)
    assert (
        "3 comparisons: better in 1, worse in 1 and not told apart at 1\u202f000 samples in 1."
        in sentence
    )
    assert "At the fewest calls, \u201chybrid, 4 calls\u201d has" in sentence
    assert sentence.endswith("at about the same seconds: better.")
    steered = [guided(n, quality=q) for n, q in ((4, 50.0), (8, 30.0), (16, 15.0))]
    sentence = about(said(*base, *steered), GUIDANCE)
    assert (
        "3 comparisons: better in all. At its best, \u201cguided, 16 calls, scale 1\u201d"
        in sentence
    )


def test_without_equal_calls_nothing_is_said_of_a_change():
    sentences = said(diffusion(7), guided(8), hybrid(16), gan(), row("refined", baseline="none"))
    for beginning in (GUIDANCE, REFINEMENT, TRAINING):
        assert about(sentences, beginning) is None


def test_refinement_of_two_kinds_is_spoken_of_twice():
    one = refined(5, quality=20.0, kind="gan, refined")
    other = row(
        "walked", "8 calls, 5 rounds", calls=one.expense.calls, baseline="diffusion", quality=5.0
    )
    sentence = about(said(gan(), one, diffusion(1, quality=20.0), other), REFINEMENT)
    assert sentence.count(REFINEMENT) == 1
    other = row("walked", "1 calls, 5 rounds", calls=one.expense.calls * 2, baseline="diffusion")
    sentence = about(said(gan(), one, diffusion(1, quality=20.0), other), REFINEMENT)
    assert sentence.count(REFINEMENT) == 2


@pytest.mark.parametrize("lost", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_never_best_cheapest_or_beaten(lost):
    broken = [gan(quality=lost), guided(8, quality=lost), row("x", seconds=lost, quality=1.0)]
    sentences = said(*broken, diffusion(8, quality=50.0))
    assert "that of \u201cdiffusion, 8 calls\u201d" in sentences[0]
    assert len(sentences) == 2
    assert said(*broken) == ["No row has a finite Fr\u00e9chet distance."]


def test_a_single_row_is_compared_with_nothing():
    sentences = said(gan())
    assert sentences[0].endswith("There is no other row to compare it with.")
    assert len(sentences) == 2


def test_no_rows_and_no_figure_are_no_accident():
    assert said() == ["No row has a finite Fr\u00e9chet distance."]
    assert said(gan(), quality="kid") == ["No row has a finite KID."]


def test_one_training_each_is_always_said():
    for rows in ([gan()], [gan(), guided(8)], full().rows):
        assert said(*rows)[-1].startswith(
            "One training each: the 95 % intervals are over the 1\u202f000"
        )


def test_more_is_better_in_words_too():
    rows = [row(n, figures={"recall": estimate(v, 0.01)}) for n, v in (("a", 0.9), ("b", 0.5))]
    assert said(*rows, quality="recall")[0].startswith(
        "The highest recall is that of \u201ca\u201d"
    )
    rows = [row(n, figures={"mode_std": estimate(v, 0.01)}) for n, v in (("a", 0.9), ("b", 2.0))]
    assert said(*rows, quality="mode_std")[0].startswith(
        "The best mode std is that of \u201ca\u201d"
    )
