import math
from dataclasses import replace

import pytest
from comparisons import comparison, diffusion, estimate, full, gan, guided, refined, row

from hybridgen.evaluation.results import TrainingSummary
from hybridgen.report.findings import headline, sample_counts, unequal_trainings


def sentences_of(*rows, **others):
    return headline(comparison(*rows, **others))


@pytest.mark.parametrize(
    ("quality", "outcome"),
    [
        (12.0, "Guided diffusion is better than a single pass ("),
        (29.0, "Guided diffusion and a single pass cannot be told apart at 1\u202f000 samples ("),
        (60.0, "Guided diffusion is worse than a single pass ("),
    ],
)
def test_the_question_is_answered_first(quality, outcome):
    first = sentences_of(gan(), guided(8, quality=quality, seconds=1e-3))[0]
    assert first == (
        f"{outcome}Fr\u00e9chet distance {quality:.1f} [{quality - 1:.1f} to {quality + 1:.1f}] "
        "for \u201cguided, 8 calls, scale 1\u201d against 30.0 [29.0 to 31.0] for "
        "\u201cGAN\u201d). A "
        "sample takes 100 times as long (1.00 ms against 10.0 \u00b5s)."
    )


def test_without_both_sides_there_is_no_answer_to_that():
    for rows in ([gan(), diffusion(8)], [diffusion(8), guided(8)], [refined(5), guided(8)]):
        assert not sentences_of(*rows)[0].startswith("Guided diffusion")


def test_the_best_is_better_than_the_rest_or_it_is_not():
    clear = sentences_of(row("a", quality=10), row("b", quality=20), row("c", quality=30))
    assert clear[0] == (
        "The lowest Fr\u00e9chet distance is that of \u201ca\u201d (10.0 [9.0 to 11.0]). A sample "
        "takes 1.00 ms. It is better than every other row beyond the uncertainty."
    )
    close = sentences_of(row("a", quality=10, seconds=2), row("b", quality=11, seconds=1))
    assert "better" not in close[0]
    assert close[0].endswith(
        "It cannot be told apart from \u201cb\u201d at 1\u202f000 samples. That one takes less "
        "time (1.00 s a sample)."
    )
    level = [row("b", quality=11, seconds=1), row("c", quality=11, seconds=0.5)]
    assert sentences_of(row("a", quality=10, seconds=2), *level)[0].endswith(
        "It cannot be told apart from 2 other rows at 1\u202f000 samples. The cheapest of them is "
        "\u201cc\u201d (500 ms a sample)."
    )


def test_the_floor_is_mentioned_where_there_is_one():
    floored = row("a", figures={"frechet_distance": estimate(12.0, floor=10.0)})
    sentences = sentences_of(floored, row("b", quality=30))
    assert "floor 10" in sentences[0]
    assert "The floor is what as many real examples get." in sentences[-1]
    assert "floor" not in " ".join(sentences_of(row("a"), row("b")))


def test_the_cheapest_is_set_beside_the_best():
    sentences = sentences_of(
        row("best", quality=10, seconds=2), row("cheap", quality=30, seconds=0.5)
    )
    assert sentences[2] == (
        "The cheapest is \u201ccheap\u201d (500 ms a sample). Its Fr\u00e9chet distance (30.0 "
        "[29.0 to 31.0]) is worse than the best beyond the uncertainty. The best takes 4 times as "
        "long."
    )
    both = sentences_of(row("best", quality=10, seconds=0.1), row("other", quality=30, seconds=1))
    assert both[2] == "\u201cbest\u201d also takes the least time a sample."


@pytest.mark.parametrize("lost", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_never_best_cheapest_or_beaten(lost):
    broken = [gan(quality=lost), guided(8, quality=lost), row("x", seconds=lost, quality=1.0)]
    sentences = sentences_of(*broken, diffusion(8, quality=50.0))
    assert "that of \u201cdiffusion, 8 calls\u201d" in sentences[0]
    assert len(sentences) == 3
    assert sentences_of(*broken) == ["No row has a finite Fr\u00e9chet distance."]


def test_a_single_row_is_compared_with_nothing():
    sentences = sentences_of(gan())
    assert sentences[0].endswith("no other row with such a figure to compare it with.")
    assert len(sentences) == 3


def test_no_rows_and_no_figure_are_no_accident():
    assert sentences_of() == ["No row has a finite Fr\u00e9chet distance."]
    assert sentences_of(gan(), quality="kid") == ["No row has a finite KID."]


def test_one_training_each_is_said_below_the_answer():
    for rows in ([gan()], [gan(), guided(8)], full().rows):
        sentences = sentences_of(*rows)
        assert sentences[1] == (
            "This holds for digits and for models that were trained once each. Longer training or "
            "other seeds may change it."
        )
        assert sentences[-1].startswith(
            "In square brackets are 95 % intervals over the 1\u202f000 samples"
        )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ({"GAN": 90.0, "diffusion": 110.0, "guide": 1.0}, "each, for 90 to 110 seconds."),
        ({"GAN": 90.0, "diffusion": 90.2}, "each, for 90 seconds."),
        ({"GAN": 2858.0, "diffusion": 3104.0}, "each, for 48 to 52 minutes."),
        ({"GAN": 90.0}, "trained once each. "),
        ({"GAN": 90.0, "diffusion": math.nan}, "trained once each. "),
    ],
)
def test_how_long_generative_models_trained_is_said_if_all_is_known(seconds, text):
    rows = [gan(), diffusion(8), guided(8, models=("diffusion", "guide"))]
    models = [TrainingSummary(name=n, command="", facts={"seconds": s}) for n, s in seconds.items()]
    assert text in sentences_of(*rows, models=tuple(models))[1]
    assert "digits" not in sentences_of(*rows, data={})[1]


def test_more_is_better_in_words_too():
    rows = [row(n, figures={"recall": estimate(v, 0.01)}) for n, v in (("a", 0.9), ("b", 0.5))]
    assert sentences_of(*rows, quality="recall")[0].startswith(
        "The highest recall is that of \u201ca\u201d"
    )
    rows = [row(n, figures={"mode_std": estimate(v, 0.01)}) for n, v in (("a", 0.9), ("b", 2.0))]
    assert sentences_of(*rows, quality="mode_std")[0].startswith(
        "The best mode std is that of \u201ca\u201d"
    )


def trained(**seconds):
    return tuple(
        TrainingSummary(name=n, command="", facts={"seconds": s}) for n, s in seconds.items()
    )


def test_trainings_of_different_length_are_spoken_of():
    rows = [row("GAN", models=("gan",)), row("guided", models=("diffusion", "guide"))]
    equal = comparison(*rows, models=trained(gan=100.0, diffusion=80.0, guide=40.0))
    assert unequal_trainings(equal) == ""
    more = unequal_trainings(replace(equal, models=trained(gan=100.0, diffusion=90.0, guide=40.0)))
    assert "100 s behind what takes gan, 130 s behind what takes diffusion and guide" in more
    assert unequal_trainings(replace(equal, models=trained(gan=100.0, diffusion=900.0))) == ""


def test_recall_and_coverage_come_with_how_many_were_compared():
    both = row("a", figures={"recall": estimate(0.8, 0.1), "coverage": estimate(0.5, 0.1)})
    limit = "With fewer samples than held-out examples coverage cannot reach 1"
    for text in ("10000", "10 000", "10\u202f000", "10,000"):
        sentence = sample_counts(comparison(both, data={"held-out examples": text}))
        assert sentence.startswith(
            "1\u202f000 samples against 10\u202f000 held-out examples: recall and coverage "
            "depend on"
        )
        assert limit in sentence
    sentence = sample_counts(comparison(both, data={"held-out examples": "360"}))
    assert "360 held-out examples" in sentence
    assert limit not in sentence
    only = row("a", figures={"recall": estimate(0.8, 0.1)})
    sentence = sample_counts(comparison(only, data={"held-out examples": "10000"}))
    assert "recall depends on" in sentence
    assert limit not in sentence
    for data in ({}, {"held-out examples": "many"}, {"held-out examples": "\u00b2"}):
        assert sample_counts(comparison(both, data=data)) == ""
    assert sample_counts(comparison(row("a"), data={"held-out examples": "360"})) == ""


def test_several_trainings_are_said_and_their_intervals_are_of_means():
    rows = [gan(trainings=5), diffusion(8, trainings=3)]
    sentences = sentences_of(*rows)
    assert "models that were trained 3 to 5 times each." in sentences[1]
    assert sentences[-1].startswith(
        "In square brackets are 95 % intervals over the trainings of a row, or over the "
        "1\u202f000 samples of a row that was trained once. The latter do not say"
    )
