import pytest
from comparisons import comparison, diffusion, gan, guided, hybrid, refined, row

from hybridgen.protocols import Cost
from hybridgen.report.findings import headline
from hybridgen.report.phrases import budgets

GUIDANCE, REFINEMENT, TRAINING = "Guided by", "Refined by", "Trained with"


def said(*rows, **others):
    return headline(comparison(*rows, **others))


def about(sentences, beginning):
    return next((s for s in sentences if s.startswith(beginning)), None)


@pytest.mark.parametrize(
    ("quality", "outcome"),
    [(10.0, "is better than"), (20.5, "cannot be told apart from"), (40.0, "is worse than")],
)
@pytest.mark.parametrize(
    ("changed", "base", "beginning", "other", "where"),
    [
        (
            lambda q: guided(8, quality=q),
            diffusion(8, quality=20.0),
            f"{GUIDANCE} a discriminator, \u201cdiffusion\u201d",
            "unguided",
            "8 calls, scale 1",
        ),
        (
            lambda q: refined(5, quality=q),
            gan(quality=20.0),
            f"{REFINEMENT} a discriminator, \u201cGAN\u201d",
            "unrefined",
            "5 rounds",
        ),
        (
            lambda q: hybrid(8, quality=q),
            diffusion(8, quality=20.0),
            f"{TRAINING} a discriminator, \u201chybrid\u201d",
            "\u201cdiffusion\u201d",
            "8 calls",
        ),
        (
            lambda q: row(
                "other", "8 calls", quality=q, baseline="diffusion", calls=Cost(denoiser=8)
            ),
            diffusion(8, quality=20.0),
            "\u201cother\u201d",
            "\u201cdiffusion\u201d",
            "8 calls",
        ),
    ],
)
def test_a_change_is_called_what_its_figures_show(
    changed, base, beginning, other, where, quality, outcome
):
    sentence = about(said(base, changed(quality)), f"{beginning} {outcome}")
    assert sentence.startswith(
        f"{beginning} {outcome} {other} at {where} (Fr\u00e9chet distance {quality:.1f} "
        f"[{quality - 1:.1f} to {quality + 1:.1f}] against 20.0 [19.0 to 21.0]). A sample takes "
    )
    for wrong in {"better", "worse", "told apart"} - set(outcome.split()) - {outcome[10:20]}:
        assert wrong not in sentence


def test_what_varied_is_named_and_one_pair_is_shown():
    base = [diffusion(n, quality=q) for n, q in ((4, 80.0), (8, 40.0), (16, 20.0))]
    trained = [hybrid(n, quality=q) for n, q in ((4, 50.0), (8, 40.5), (16, 30.0))]
    assert about(said(*base, *trained), TRAINING) == (
        "Trained with a discriminator, \u201chybrid\u201d is better than \u201cdiffusion\u201d at "
        "4 calls, is worse than \u201cdiffusion\u201d at 16 calls and cannot be told apart from "
        "\u201cdiffusion\u201d at 8 calls. At the fewest calls, \u201chybrid, 4 calls\u201d has "
        "Fr\u00e9chet distance 50.0 [49.0 to 51.0] (against 80.0 [79.0 to 81.0] for "
        "\u201cdiffusion, 4 calls\u201d). A sample takes about as long."
    )
    steered = [guided(n, quality=q) for n, q in ((4, 50.0), (8, 30.0), (16, 15.0))]
    assert about(said(*base, *steered), GUIDANCE).startswith(
        "Guided by a discriminator, \u201cdiffusion\u201d is better than unguided at 4, 8 and 16 "
        "calls, "
        "scale 1. At its best, \u201cguided, 16 calls, scale 1\u201d has"
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (["18 calls, scale 1", "18 calls, scale 4", "18 calls, scale 2"],
         "at 18 calls, scales 1, 2 and 4"),
        (["10 calls, scale 1", "18 calls, scale 1", "18 calls, scale 4"],
         "at 10 and 18 calls, scales 1 to 4"),
        (["10 calls, scale 1", "18 calls, scale 1"], "at 10 and 18 calls, scale 1"),
        (["1 round"], "at 1 round"),
        (["1 round", "20 rounds"], "at 1 and 20 rounds"),
        (["10 calls, 2 rounds"], "at 10 calls, 2 rounds"),
        (["10 calls, scale -1", "10 calls, scale 1"],
         "at 10 calls, scale -1; 10 calls, scale 1"),
        (["10 calls", "10 calls, scale 1"], "at 10 calls; 10 calls, scale 1"),
        (["anything"], "at anything"),
        (["", ""], ""),
    ],
)  # fmt: skip
def test_budgets_are_put_together(settings, text):
    assert budgets([row("a", setting) for setting in settings]) == text


def test_several_methods_of_one_kind_are_named():
    first = refined(5, quality=20.0, kind="k")
    second = row("rejected", "2 rounds", quality=30.5, kind="k", baseline="GAN",
                 calls=first.cost.calls)  # fmt: skip
    third = row("weighed", "9 rounds", quality=31.0, kind="k", baseline="GAN",
                calls=first.cost.calls)  # fmt: skip
    assert about(said(gan(), first, second, third), REFINEMENT).startswith(
        "Refined by a discriminator, \u201cGAN\u201d is better than unrefined as \u201cGAN, "
        "refined\u201d "
        "at 5 rounds and cannot be told apart from unrefined as \u201crejected\u201d at 2 rounds "
        "and \u201cweighed\u201d at 9 rounds. At its best, \u201cGAN, refined, 5 rounds\u201d"
    )


def test_without_equal_calls_nothing_is_said_of_a_change():
    sentences = said(diffusion(7), guided(8), hybrid(16), gan(), row("refined", baseline="none"))
    for beginning in (GUIDANCE, REFINEMENT, TRAINING):
        assert about(sentences, beginning) is None


def test_refinement_of_two_kinds_is_spoken_of_twice():
    one = refined(5, quality=20.0, kind="gan, refined")
    other = row(
        "walked", "8 calls, 5 rounds", calls=one.cost.calls, baseline="diffusion", quality=5.0
    )
    assert spoken(said(gan(), one, diffusion(1, quality=20.0), other)) == ["GAN"]
    other = row("walked", "1 calls, 5 rounds", calls=one.cost.calls * 2, baseline="diffusion")
    found = spoken(said(gan(), one, diffusion(1, quality=20.0), other))
    assert found == ["GAN", "diffusion"]


def spoken(sentences):
    """Which models sentences about refinement name."""
    return [s.split("\u201c")[1].split("\u201d")[0] for s in sentences if s.startswith(REFINEMENT)]


def test_a_range_never_spans_a_budget_with_another_outcome():
    base = [diffusion(n, quality=20.0) for n in (10, 18)]
    found = ((10, 1, 10.0), (10, 2, 20.0), (10, 4, 10.0), (18, 1, 10.0), (18, 2, 20.0))
    steered = [guided(n, scale, quality=q) for n, scale, q in found]
    assert about(said(*base, *steered), GUIDANCE).startswith(
        "Guided by a discriminator, \u201cdiffusion\u201d is better than unguided at 10 calls, "
        "scale 1; "
        "10 calls, scale 4; 18 calls, scale 1 and cannot be told apart from unguided at 10 and 18 "
        "calls, scale 2."
    )
