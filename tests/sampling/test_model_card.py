import re

import pytest
import yaml

from hybridgen.sampling.model_card import model_card

IMAGES = {"name": "me/digits", "shape": (1, 8, 8)}
TRAINED_FOR = {"sampler": "heun", "steps": 11}


def front_matter(card):
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.DOTALL).group(1))


def test_front_matter_says_what_the_hub_searches_by():
    metadata = front_matter(
        model_card(**IMAGES, guide="ResidualDiscriminator", licence="apache-2.0")
    )
    assert metadata == {
        "license": "apache-2.0",
        "library_name": "diffusers",
        "tags": ["diffusers", "hybridgen", "discriminator-guidance"],
        "pipeline_tag": "unconditional-image-generation",
    }


def test_points_are_not_offered_as_image_generation():
    card = model_card(name="ring", shape=(2,))
    assert "pipeline_tag" not in front_matter(card)
    assert "points of 2 coordinates" in card
    assert 'output_type="pt"' in card


def test_a_licence_that_was_not_given_is_unknown_and_the_card_says_whom_to_ask():
    card = model_card(**IMAGES)
    assert front_matter(card)["license"] == "unknown"
    assert "No licence was stated" in card
    assert "No licence" not in model_card(**IMAGES, licence="mit")


def test_a_card_without_a_guide_does_not_speak_of_one():
    card = model_card(**IMAGES)
    assert "guidance" not in card
    assert "without a guide" in card


def test_limits_name_the_sampler_the_guide_was_trained_for():
    card = model_card(**IMAGES, guide="ResidualDiscriminator", trained_for=TRAINED_FOR)
    assert "errors of heun with 11 steps" in card
    assert "num_inference_steps=11" in card
    assert "not stated for which" in model_card(**IMAGES, guide="ResidualDiscriminator")


def test_figures_become_a_table_only_where_there_are_any():
    card = model_card(**IMAGES, figures={"frechet_distance": 1.23456, "recall": 0.9})
    assert "| frechet_distance | 1.235 |\n| recall | 0.9 |" in card
    assert "## Figures" not in model_card(**IMAGES)


def test_classes_appear_in_the_code_and_in_the_limits():
    card = model_card(**IMAGES, classes=10)
    assert "class_labels=0" in card
    assert "integers 0 to 9" in card
    assert "class_labels" not in model_card(**IMAGES)


@pytest.mark.parametrize("guide", [None, "ResidualDiscriminator"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (2,)])
def test_the_code_on_the_card_is_code(guide, shape):
    card = model_card(name='odd "name"', shape=shape, guide=guide, classes=3)
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    compile(block, "card", "exec")


def test_a_card_without_a_name_is_refused():
    with pytest.raises(ValueError, match="needs a name"):
        model_card(name="", shape=(2,))
