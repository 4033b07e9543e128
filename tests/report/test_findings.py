import math
from dataclasses import replace

import pytest
from comparisons import comparison, diffusion, estimate, full, gan, guided, refined, row

from hybridgen.evaluation.results import TrainingSummary
from hybridgen.report.findings import headline, sample_counts, unequal_trainings


def sentences_of(*rows, **others):
    return headline(comparison(*rows, **others))


def trained(**seconds):
    return tuple(
        TrainingSummary(name=n, command="", facts={"seconds": s}) for n, s in seconds.items()
    )


@pytest.mark.parametrize(
    ("quality", "outcome"),
    [
        (12.0, "Guided diffusion is better than a single pass"),
        (29.0, "Guided diffusion and a single pass cannot be told apart at 1\u202f000 samples"),
        (60.0, "Guided diffusion is worse than a single pass"),
    ],
)
def test_the_question_is_answered_first(quality, outcome):
    first = sentences_of(gan(), guided(8, quality=quality, seconds=1e-3))[0]
    assert first == (
        f"{outcome}: Fr\u00e9chet distance {quality:.1f} [{quality - 1:.1f} to {quality + 1:.1f}] "
        "for \u201cguided, 8 calls, scale 1\u201d against 30.0 [29.0 to 31.0] for "
        "\u201cGAN\u201d; no comparable unguided row says what the guide's part in it is. "
        "A sample takes 100 times as long (1.00 ms against 10.0 \u00b5s)."
    )


@pytest.mark.parametrize(
    ("unguided", "clause"),
    [
        (20.0, "unguided at equal calls it is 20.0 [19.0 to 21.0], than which guided is better."),
        (12.5, "unguided at equal calls it is 12.5 [11.5 to 13.5], and the two cannot be told"),
        (9.0, "unguided at equal calls it is 9.0 [8.0 to 10.0], than which guided is worse."),
    ],
)
def test_guided_diffusion_is_never_spoken_of_without_the_same_unguided(unguided, clause):
    rows = [gan(), diffusion(8, quality=unguided), guided(8, quality=12.0), diffusion(4)]
    assert clause in sentences_of(*rows)[0]


def test_other_rows_that_rest_on_failed_guides_are_counted():
    failed = [
        guided(n, quality=12.0, validation_note="its guide failed validation") for n in (4, 8)
    ]
    words = " ".join(sentences_of(row("a", quality=11.5), *failed))
    assert "It and 2 other rows (2 of which rest on what failed its validation) cannot" in words


def test_a_guide_that_failed_its_validation_is_said_to_wherever_its_row_is_named():
    words = "its guide failed validation"
    failed = guided(8, quality=12.0, validation_note=words)
    for rows in (
        [gan(), failed],
        [failed, row("b", quality=30.0)],
        [row("a", quality=10.0), replace(failed, cost=row("", seconds=1e-9).cost)],
    ):
        for sentence in sentences_of(*rows):
            names = ("\u201cguided, 8 calls, scale 1\u201d", "It (", "the best (")
            assert sum(map(sentence.count, names)) == sentence.count(words)
        assert words in " ".join(sentences_of(*rows))
    near = sentences_of(row("a", quality=11.5), failed)[0]
    assert f"It and \u201cguided, 8 calls, scale 1\u201d ({words}) cannot be told apart" in near
    cheap = sentences_of(
        guided(8, quality=12.0, validation_note=words, seconds=1e-9), row("b", quality=30.0)
    )
    assert f"\u201cguided, 8 calls, scale 1\u201d ({words}) also takes the least time" in cheap[2]


def test_without_both_sides_there_is_no_answer_to_that():
    for rows in ([gan(), diffusion(8)], [diffusion(8), guided(8)], [refined(5), guided(8)]):
        assert not sentences_of(*rows)[0].startswith("Guided diffusion")


def test_the_best_is_better_than_the_rest_or_it_is_not():
    others = [row("b", quality=20), row("c", quality=30)]
    assert sentences_of(row("a", quality=10), *others)[0] == (
        "The lowest Fr\u00e9chet distance is 10.0 [9.0 to 11.0] for \u201ca\u201d. A sample takes "
        "1.00 ms. It is better than every other row beyond the uncertainty."
    )
    level = [row("b", quality=11), row("c", quality=11)]
    for rows, names in ((level[:1], "\u201cb\u201d"), (level, "2 other rows")):
        first = sentences_of(row("a", quality=10), *rows)[0]
        assert first.endswith(f" It and {names} cannot be told apart at 1\u202f000 samples.")
        assert "better" not in first


@pytest.mark.parametrize(
    ("metric", "words"),
    [("recall", "The highest recall is 0.900"), ("mode_std", "The best mode std is 0.900")],
)
def test_which_way_is_better_is_heeded_in_words_too(metric, words):
    rows = [row(n, figures={metric: estimate(v, 0.01)}) for n, v in (("a", 0.9), ("b", 0.5))]
    assert sentences_of(*rows, quality=metric)[0].startswith(words)


def test_the_floor_is_mentioned_where_there_is_one():
    floored = row("a", figures={"frechet_distance": estimate(12.0, floor=10.0)})
    assert "for \u201ca\u201d, floor 10." in sentences_of(floored, row("b", quality=30))[0]
    assert "floor" not in sentences_of(row("a"), row("b"))[0]


def test_the_cheapest_is_set_beside_the_best():
    best, cheap = row("best", quality=10, seconds=2), row("cheap", quality=30, seconds=0.5)
    assert sentences_of(best, cheap)[2] == (
        "The cheapest takes 500 ms a sample: 30.0 [29.0 to 31.0] for \u201ccheap\u201d, worse than "
        "the best, which takes 4 times as long."
    )
    near = row("near", quality=10.5, seconds=0.5)
    assert "not to be told apart from the best, which" in sentences_of(best, near)[2]
    both = sentences_of(cheap, row("other", quality=40))
    assert both[0].startswith("The lowest Fr\u00e9chet distance is 30.0")
    quick = sentences_of(row("best", quality=10, seconds=0.1), cheap)
    assert quick[2] == "\u201cbest\u201d also takes the least time a sample."


@pytest.mark.parametrize("lost", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_never_best_cheapest_or_beaten(lost):
    broken = [gan(quality=lost), guided(8, quality=lost), row("x", seconds=lost, quality=1.0)]
    sentences = sentences_of(*broken, diffusion(8, quality=50.0))
    assert "for \u201cdiffusion, 8 calls\u201d" in sentences[0]
    assert sentences[0].endswith("no other row with such a figure to compare it with.")
    assert len(sentences) == 3
    assert sentences_of(*broken) == ["No row has a finite Fr\u00e9chet distance."]


def test_no_rows_and_no_figure_are_no_accident():
    assert sentences_of() == ["No row has a finite Fr\u00e9chet distance."]
    assert sentences_of(gan(), quality="kid") == ["No row has a finite KID."]


def test_how_often_models_were_trained_is_said_below_the_answer():
    for rows in ([gan()], [gan(), guided(8)], full().rows):
        sentences = sentences_of(*rows)
        assert sentences[1] == (
            "This holds for digits and for models that were trained once each. Longer training or "
            "other seeds may change it."
        )
        assert "95 % intervals over the 1\u202f000 samples of a row. They do not" in sentences[-1]
        assert "over its trainings" not in sentences[-1]
    sentences = sentences_of(gan(trainings=5), diffusion(8, trainings=3))
    assert "models that were trained 3 to 5 times each." in sentences[1]
    assert "trained several times they are over its trainings" in sentences[-1]


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
    assert text in sentences_of(*rows, models=trained(**seconds))[1]
    assert "digits" not in sentences_of(*rows, data={})[1]


def test_trainings_of_different_length_are_spoken_of():
    rows = [row("GAN", models=("gan",)), row("guided", models=("diffusion", "guide"))]

    def sentence(**seconds):
        return unequal_trainings(comparison(*rows, models=trained(**seconds)))

    assert sentence(gan=100.0, diffusion=80.0, guide=40.0) == ""
    more = sentence(gan=100.0, diffusion=90.0, guide=40.0)
    assert "100 s behind what takes gan, 130 s behind what takes diffusion and guide" in more
    assert sentence(gan=100.0, diffusion=900.0) == ""


def test_recall_and_coverage_come_with_how_many_were_compared():
    both = row("a", figures={"recall": estimate(0.8, 0.1), "coverage": estimate(0.5, 0.1)})
    only = row("a", figures={"recall": estimate(0.8, 0.1)})

    def sentence(one, held_out):
        return sample_counts(comparison(one, data={"held-out examples": held_out}))

    start = (
        "1\u202f000 samples against 10\u202f000 held-out examples: recall and coverage depend on"
    )
    limit = "With so few samples coverage cannot reach 1"
    assert sentence(both, "10000").startswith(start)
    assert limit in sentence(both, "10000")
    assert "against 360 held-out" in sentence(both, "360")
    assert limit not in sentence(both, "360") + sentence(only, "10000")
    assert "recall depends on" in sentence(only, "10000")
    for one, held_out in ((both, "many"), (both, "\u00b2"), (both, ""), (row("a"), "360")):
        assert sentence(one, held_out) == ""
