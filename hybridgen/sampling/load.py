"""Pipelines that diffusers saved, from a folder or the hub, as denoisers."""

import json
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from hybridgen.errors import InputError, reason
from hybridgen.sampling.pretrained import DiffusersDenoiser

_INDEX = "model_index.json"
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
    index = _index(str(name))
    pipeline = index.get("_class_name", "a pipeline without a name")
    parts = [part for part in ("unet", "transformer") if _kind(index, part) is not None]
    problem = ""
    if len(parts) != 1 or _kind(index, "scheduler") is None:
        problem = "has no network and scheduler of diffusers that can be told apart"
    elif any(part.startswith(("text_encoder", "tokenizer", "image_encoder")) for part in index):
        problem = "needs text or images as conditions"
    if problem:
        raise InputError(
            f"{name} is {pipeline}, which {problem}; a denoiser can be made of DDPMPipeline, "
            "DDIMPipeline, DiTPipeline and others with one unconditional or class-conditional unet "
            "or transformer of diffusers"
        )
    scheduler = _component(str(name), index, "scheduler")
    network = _component(str(name), index, parts[0], use_safetensors=True)
    try:
        return DiffusersDenoiser(network, scheduler, null=null).eval()
    except ValueError as error:
        raise InputError(
            f"{name} is {pipeline}, of which no denoiser can be made: {error}"
        ) from error


def _index(name: str) -> dict[str, Any]:
    """What `model_index.json` says: the pipeline's class and the class of each component."""
    path = Path(name) / _INDEX if Path(name).is_dir() else Path(_from_hub(name))
    if not path.is_file():
        raise InputError(
            f"no diffusers pipeline in {name}: expected {_INDEX} there; name a folder that a "
            "pipeline's save_pretrained wrote"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}); save it again") from error
    if not isinstance(index, dict):
        raise InputError(f"{path} does not describe a pipeline; save it again")
    return index


def _from_hub(name: str) -> str:
    offline = huggingface_hub.is_offline_mode()
    try:
        if not offline:
            # One question with a time limit: a download alone retries for half a minute.
            huggingface_hub.HfApi().model_info(name, timeout=_PATIENCE_SECONDS)
        return huggingface_hub.hf_hub_download(name, _INDEX, local_files_only=offline)
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


def _kind(index: dict[str, Any], part: str) -> type[Any] | None:
    """The class of diffusers that a component is of, `None` if it is absent or of another make."""
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2 or entry[0] != "diffusers":
        return None
    return getattr(diffusers, str(entry[1]), None)


def _component(name: str, index: dict[str, Any], part: str, **how: Any) -> Any:
    kind: Any = _kind(index, part)
    try:
        return kind.from_pretrained(name, subfolder=part, **how)
    except Exception as error:  # a damaged file fails in as many ways as there are formats
        raise InputError(
            f"the {part} of {name} cannot be read ({reason(error)}); save it again, its weights "
            "as safetensors"
        ) from error
