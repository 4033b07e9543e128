"""The page that introduces a saved pipeline to people who did not train it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


def model_card(
    *,
    name: str,
    shape: tuple[int, ...],
    classes: int = 0,
    network: str = "denoiser",
    scheduler: str = "any diffusers scheduler",
    guide: str | None = None,
    trained_for: Mapping[str, Any] | None = None,
    data: str | None = None,
    figures: Mapping[str, float] | None = None,
    licence: str | None = None,
) -> str:
    """A `README.md` for the hub: metadata in YAML, then how to use the pipeline and its limits.

    What is not known is said to be unknown; nothing is made up.

    Args:
        name: where people load the pipeline from, a hub name or a folder.
        shape: of one sample, `(c, h, w)` or `(d,)`.
        classes: number of labels; 0 for none.
        network: the denoising network, in a word or two.
        scheduler: the sampler that is saved with it.
        guide: the discriminator, `None` for a pipeline without.
        trained_for: the sampler and number of steps whose errors the guide corrects.
        data: what everything was trained on, in a sentence or a name.
        figures: metric name -> value, as measured.
        licence: of the weights, as the hub spells it, such as `apache-2.0`.

    Raises:
        ValueError: an empty name or shape.
    """
    if not name or not shape:
        raise ValueError(f"a card needs a name and a sample's shape, got {name=} and {shape=}")
    image = len(shape) == 3
    card_data = ModelCardData(
        license=licence or "unknown",
        library_name="diffusers",
        tags=["diffusers", "hybridgen", *(["discriminator-guidance"] if guide else [])],
        pipeline_tag="unconditional-image-generation" if image else None,
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(_TEMPLATE),
        name=name,
        quoted=json.dumps(name),
        image=image,
        shape=list(shape),
        classes=classes,
        network=network,
        scheduler=scheduler,
        guide=guide,
        trained_for=trained_for or {},
        data=data,
        figures=figures,
        licence=licence,
    )
    return f"{card}\n"
