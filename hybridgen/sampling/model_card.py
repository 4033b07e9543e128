"""The page that introduces a saved pipeline to people who did not train it."""

import json
from collections.abc import Mapping
from typing import Any

import yaml


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
        classes: labels it is told about; 0 for none.
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
    metadata: dict[str, Any] = {
        "license": licence or "unknown",
        "library_name": "diffusers",
        "tags": ["diffusers", "hybridgen", *(["discriminator-guidance"] if guide else [])],
    }
    if len(shape) == 3:
        metadata["pipeline_tag"] = "unconditional-image-generation"
    sections = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---",
        f"# {name.split('/')[-1]}",
        _summary(shape, classes, network, guide),
        f"## How to use it\n\n{_usage(name, shape, classes, guide, trained_for)}",
        f"## What it was trained on\n\n{data or 'The data was not stated.'}",
        *([f"## Figures\n\n{_table(figures)}"] if figures else []),
        f"## Limits\n\n{_limits(shape, classes, scheduler, guide, trained_for, licence)}",
    ]
    return "\n\n".join(sections) + "\n"


def _summary(shape: tuple[int, ...], classes: int, network: str, guide: str | None) -> str:
    if len(shape) == 3:
        channels, height, width = shape
        what = f"{height}x{width} images with {channels} channel{'s' if channels > 1 else ''}"
    else:
        what = f"points of {shape[0]} coordinates"
    told = f", told which of {classes} classes to make" if classes else ""
    guided = f", guided by a discriminator ({guide})" if guide else ", without a guide"
    return f"A diffusion model of {what}{told}: a denoiser ({network}){guided}."


def _usage(
    name: str,
    shape: tuple[int, ...],
    classes: int,
    guide: str | None,
    trained_for: Mapping[str, Any] | None,
) -> str:
    arguments = ["batch_size=4", f"num_inference_steps={(trained_for or {}).get('steps', 18)}"]
    arguments += ["guidance_scale=1.0"] if guide else []
    arguments += ["class_labels=0"] if classes else []
    arguments += [] if len(shape) == 3 else ['output_type="pt"']
    call = "".join(f"    {argument},\n" for argument in arguments)
    saved = 'images[0].save("sample.png")\n' if len(shape) == 3 else ""
    result = "images" if len(shape) == 3 else "points"
    zero = "\n\n`guidance_scale=0` samples without the guide." if guide else ""
    return (
        "```python\n"
        "import torch\n"
        "from hybridgen.sampling.pipeline import GuidedDiffusionPipeline\n\n"
        f"pipeline = GuidedDiffusionPipeline.from_pretrained({json.dumps(name)})\n"
        f"{result} = pipeline(\n{call}"
        "    generator=torch.Generator().manual_seed(0),\n"
        f").images\n{saved}```\n\n"
        "It needs the package `hybridgen`, downloads weights and settings only, and runs no code "
        f"of this page's repository.{zero} Another scheduler: `pipeline.scheduler = "
        "DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)`."
    )


def _table(figures: Mapping[str, float]) -> str:
    rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in figures.items())
    return f"| metric | value |\n| --- | --- |\n{rows}"


def _limits(
    shape: tuple[int, ...],
    classes: int,
    scheduler: str,
    guide: str | None,
    trained_for: Mapping[str, Any] | None,
    licence: str | None,
) -> str:
    lines = [f"- Samples have this one shape, {list(shape)}; there is no text prompt."]
    if guide and trained_for:
        lines.append(
            f"- The guide corrects the errors of {trained_for['sampler']} with "
            f"{trained_for['steps']} steps. With another sampler or number of steps its scale has "
            "to be chosen anew, zero included; the pipeline warns."
        )
    elif guide:
        lines.append("- It was not stated for which sampler and number of steps the guide is.")
    if classes:
        lines.append(f"- Labels are the integers 0 to {classes - 1} of the training data.")
    lines.append(f"- The scheduler saved with it is {scheduler}.")
    if licence is None:
        lines.append("- No licence was stated: ask whoever trained it before using the weights.")
    return "\n".join(lines)
