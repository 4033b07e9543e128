"""Pipelines that diffusers saved, from a folder or the hub, as denoisers."""

import sys
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
from diffusers.models.modeling_utils import ModelMixin
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from hybridgen.errors import InputError, reason
from hybridgen.files import read_object
from hybridgen.networks.build import check_complete, check_numbers, check_saved
from hybridgen.sampling.conversions import SCHEDULERS
from hybridgen.sampling.pretrained import DiffusersDenoiser

INDEX = "model_index.json"
"""What makes a folder a saved pipeline."""
_PARTS = ("unet", "transformer", "scheduler")
_DIFFUSERS = {"UNet2DModel", "DiTTransformer2DModel", "Transformer2DModel"}
_DIFFUSERS |= {scheduler.kind for scheduler in SCHEDULERS.values()}
"""Classes of diffusers that a saved pipeline may name; no other is built or imported for it."""
_PATIENCE_SECONDS = 10.0


def load_denoiser(name: str | Path, *, null: int | None = None) -> DiffusersDenoiser:
    """The network of a saved diffusers pipeline as a denoiser, in eval mode.

    Only the network (`unet` or `transformer`, safetensors) and the scheduler's settings are read.
    A `DiTPipeline` works on latents: samples of its denoiser are `[b 4 h w]`, to be decoded by the
    pipeline's own VAE after division by its `scaling_factor`.

    Networks of this package are loaded by `hybridgen.networks.build.load_network`.

    Args:
        name: a folder that `save_pretrained` wrote, or a name on the Hugging Face hub.
        null: the label id that means "no class"; see `DiffusersDenoiser`.

    Raises:
        InputError: nothing there, no network to reach it, or a pipeline that needs more than noise
            and labels, such as text.
    """
    folder = Path(name) if Path(name).is_dir() else _from_hub(str(name))
    index = read_index(folder)
    pipeline = str(index.get("_class_name", "a pipeline without a name"))[:60]
    parts = [
        part
        for part in ("unet", "transformer")
        if saved_kind(index, part) is not None and index[part][0] == "diffusers"
    ]
    scheduler, problem = index.get("scheduler"), ""
    if any(part.startswith(("text_encoder", "tokenizer", "image_encoder")) for part in index):
        problem = "needs text or images as conditions"
    elif len(parts) != 1 or not isinstance(scheduler, list) or scheduler[:1] != ["diffusers"]:
        problem = "has no network and scheduler of diffusers that can be told apart"
    elif saved_kind(index, "scheduler") is None:
        problem = f"cannot be sampled: there is no conversion for a {str(scheduler[-1])[:60]}"
    if problem:
        raise InputError(
            f"{name} is {pipeline}, which {problem}; a denoiser can be made of DDPMPipeline, "
            "DDIMPipeline, DiTPipeline and others with one unconditional or class-conditional unet "
            "or transformer of diffusers"
        )
    scheduler = _component(folder, index, "scheduler")
    network = _component(folder, index, parts[0])
    try:
        return DiffusersDenoiser(network, scheduler, null=null).eval()
    except ValueError as error:
        raise InputError(
            f"{name} is {pipeline}, of which no denoiser can be made: {error}"
        ) from error


def read_index(folder: Path) -> dict[str, Any]:
    """What `model_index.json` says: the pipeline's class and the class of each component.

    Raises:
        InputError: it is missing or damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        raise InputError(
            f"no diffusers pipeline in {folder}: expected {INDEX} there; name a folder that a "
            "pipeline's save_pretrained wrote"
        )
    return read_object(path, advice="save it again")


def _from_hub(name: str) -> Path:
    """A copy of the network's and the scheduler's files, and of no others."""
    offline = huggingface_hub.is_offline_mode()
    try:
        if not offline:
            # One question with a time limit: a download alone retries for half a minute.
            huggingface_hub.HfApi().model_info(name, timeout=_PATIENCE_SECONDS)
        files = [
            INDEX,
            *(f"{part}/*.{kind}" for part in _PARTS for kind in ("json", "safetensors")),
        ]
        copy = huggingface_hub.snapshot_download
        return Path(copy(name, allow_patterns=files, local_files_only=offline))
    except HFValidationError as error:
        raise InputError(f"there is no folder {name}, and no hub name looks like that") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{name!r} is neither a folder here nor a model on the Hugging Face hub that may be "
            "read; correct the name, or log in to the hub if it is private"
        ) from error
    except Exception as error:  # every failure of the network means the same here
        why = "HF_HUB_OFFLINE is set" if offline else reason(error)
        raise InputError(
            f"{name!r} is no folder here, and no pipeline of that name can be had from the "
            f"Hugging Face hub ({why}) or its cache; correct the name or go online"
        ) from error


def saved_kind(index: dict[str, Any], part: str) -> type[Any] | None:
    """The class that a component is of, `None` if it is absent or none of those that are loaded."""
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[1], str):
        return None
    if entry[0] == "diffusers":
        return getattr(diffusers, entry[1]) if entry[1] in _DIFFUSERS else None
    # Of this package, or somebody's own that is imported already: nothing is imported for a name.
    kind = getattr(sys.modules.get(str(entry[0])), entry[1], None)
    network = (
        isinstance(kind, type) and issubclass(kind, ModelMixin) and kind.__module__ == entry[0]
    )
    return kind if network and not kind.__module__.startswith("diffusers.") else None


def check_component(kind: type[Any], folder: Path) -> None:
    """See `check_saved`, of a network or a scheduler; what fails is an `InputError` too."""
    if issubclass(kind, ModelMixin):
        check_saved(kind, folder)
        return
    path = folder / "scheduler_config.json"
    try:
        check_numbers(read_object(path, advice="save it again"))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); save it again") from error


def _component(folder: Path, index: dict[str, Any], part: str) -> Any:
    kind: Any = saved_kind(index, part)
    how = {} if part == "scheduler" else {"use_safetensors": True}
    try:
        check_component(kind, folder / part)
        component = kind.from_pretrained(folder / part, local_files_only=True, **how)
        if issubclass(kind, ModelMixin):
            check_complete(component)
        return component
    except Exception as error:  # a damaged file fails in as many ways as there are formats
        raise InputError(
            f"the {part} of {folder} cannot be read ({reason(error)}); save it again, its weights "
            "as safetensors"
        ) from error
