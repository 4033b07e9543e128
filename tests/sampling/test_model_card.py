import re

import pytest
import yaml
from oracles import heun_scheduler

from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser
from hybridgen.networks.mlp import MlpDiscriminator
from hybridgen.networks.residual import ResidualDiscriminator
from hybridgen.sampling.pipeline import GuidedDiffusionPipeline

TRAINED_FOR = {"sampler": "heun", "steps": 11}


def card_of(*, points=False, channels=1, classes=0, guided=False, trained_for=None, **facts):
    """The card of a new pipeline of 8x8 images, or of points."""
    settings = {"classes": classes, "noise_conditional": True}
    if points:
        denoiser = PointDenoiser(width=8, depth=1, frequencies=2, classes=classes)
        guide = MlpDiscriminator(width=8, depth=1, **settings)
    else:
        denoiser = ImageDenoiser(channels=channels, widths=(8,), classes=classes)
        guide = ResidualDiscriminator(channels=channels, width=16, depth=1, **settings)
    pipeline = GuidedDiffusionPipeline(
        denoiser, heun_scheduler(), guide if guided else None, trained_for=trained_for
    )
    return pipeline.card(**{"name": "me/digits", **facts})


def front_matter(card):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL).group(1))


def test_front_matter_says_what_the_hub_searches_by():
    metadata = front_matter(card_of(guided=True, licence="apache-2.0"))
    assert metadata == {
        "license": "apache-2.0",
        "library_name": "diffusers",
        "tags": ["diffusers", "hybridgen", "discriminator-guidance"],
        "pipeline_tag": "unconditional-image-generation",
    }


def test_points_are_not_offered_as_image_generation():
    card = card_of(points=True)
    assert "pipeline_tag" not in front_matter(card)
    assert "points of 2 coordinates" in card
    assert 'output_type="pt"' in card


def test_a_licence_that_was_not_given_is_unknown_and_the_card_says_whom_to_ask():
    card = card_of()
    assert front_matter(card)["license"] == "unknown"
    assert "No licence was stated" in card
    assert "No licence" not in card_of(licence="mit")


def test_a_card_without_a_guide_does_not_speak_of_one():
    card = card_of()
    assert "guidance" not in card
    assert "without a guide" in card


def test_limits_name_the_sampler_the_guide_was_trained_for():
    card = card_of(guided=True, trained_for=TRAINED_FOR)
    assert "errors of heun with 11 steps" in card
    assert "num_inference_steps=11" in card
    assert "not stated for which" in card_of(guided=True)


def test_figures_become_a_table_only_where_there_are_any():
    card = card_of(figures={"frechet_distance": 1.23456, "recall": 0.9})
    assert "| frechet_distance | 1.235 |\n| recall | 0.9 |" in card
    assert "## Figures" not in card_of()


def test_classes_appear_in_the_code_and_in_the_limits():
    card = card_of(classes=10)
    assert "class_labels=0" in card
    assert "integers 0 to 9" in card
    assert "class_labels" not in card_of()


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("kind", [{"channels": 3}, {"points": True}])
def test_the_code_on_the_card_is_code(guided, kind):
    card = card_of(name='odd "name"', guided=guided, classes=3, **kind)
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    compile(block, "card", "exec")


def test_a_card_without_a_name_is_refused():
    with pytest.raises(ValueError, match="needs a name"):
        card_of(name="")


HOSTILE = "[x](javascript:a) <script>b</script> ![y](http://c) | `d` \n# e\n---\nlicense: f"


def test_words_of_others_are_shown_and_do_nothing():
    facts = {"name": f"me/{HOSTILE}", "data": HOSTILE, "licence": HOSTILE}
    trained_for = {"sampler": HOSTILE, "steps": 3}
    card = card_of(**facts, figures={HOSTILE: 1.0}, guided=True, trained_for=trained_for)
    assert front_matter(card)["license"].split() == HOSTILE.split()
    text = card.split("---\n", 2)[2]
    prose = re.sub(r"```python\n.*?```", "", text, flags=re.DOTALL)
    assert not re.search(r"<script|(?<!\\)\[[xy]|\n# e|\nlicense", prose)
    (line,) = [line for line in prose.splitlines() if line.endswith(" | 1 |")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 3
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(block, "card", "exec")
