"""Pipelines that diffusers saved, from a folder or the hub, as denoisers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers
import huggingface_hub
import torch
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from hybridgen.errors import InputError, reason
from hybridgen.files import read_object
from hybridgen.networks.build import check_complete, check_numbers, check_saved, variant_of
from hybridgen.sampling.conversions import SCHEDULERS
from hybridgen.sampling.pretrained import DiffusersDenoiser

INDEX = "model_index.json"
"""What makes a folder a saved pipeline."""
_CONFIG, _SCHEDULER, _WEIGHTS = "config.json", "scheduler_config.json", "diffusion_pytorch_model"
_NETWORKS = ("unet", "transformer")
_DIFFUSERS = {"UNet2DModel", "DiTTransformer2DModel", "Transformer2DModel"}
_DIFFUSERS |= {scheduler.kind for scheduler in SCHEDULERS.values()}
"""Classes of diffusers that a saved pipeline may name; no other is built or imported for it."""
_PATIENCE_SECONDS = 10.0


def load_denoiser(
    name: str | Path,
    *,
    null: int | None = None,
    scheduler: Any = None,
    subfolder: str = "",
    revision: str | None = None,
    variant: str | None = None,
    token: str | None = None,
    torch_dtype: torch.dtype | None = None,
) -> DiffusersDenoiser:
    """The network of a saved diffusers pipeline as a denoiser, in eval mode.

    Only the network (`unet` or `transformer`, safetensors) and the scheduler's settings are read.
    Each may have a folder of its own or lie beside `model_index.json`, or there is a network alone.
    A `DiTPipeline` works on latents: samples of its denoiser are `[b 4 h w]`, to be decoded by the
    pipeline's own VAE after division by its `scaling_factor`.

    Networks of this package are loaded by `hybridgen.networks.build.load_network`.

    Args:
        name: a folder that `save_pretrained` wrote, or a name on the Hugging Face hub.
        null: the label id that means "no class"; see `DiffusersDenoiser`.
        scheduler: what the network was trained with, if no scheduler is saved with it.
        subfolder: where all this lies within the folder or the repository.
        revision: of the repository: a branch, a tag or a commit.
        variant: of the weights, such as `fp16`.
        token: of the hub; that of `hf auth login` if not given.
        torch_dtype: what the weights are turned into; as saved if not given.

    Raises:
        InputError: nothing there, no network to reach it, or a pipeline that needs more than noise
            and labels, such as text.
    """
    if Path(name).is_dir():
        folder = Path(name) / subfolder
    else:
        folder = _from_hub(str(name), subfolder, revision, variant, token)
    index = _index(folder)
    pipeline = str(index.get("_class_name", "a pipeline without a name"))[:60]
    parts = [part for part in _NETWORKS if _saved_kind(index, part) is not None]
    saved, problem = index.get("scheduler"), ""
    if any(part.startswith(("text_encoder", "tokenizer", "image_encoder")) for part in index):
        problem = "needs text or images as conditions"
    elif scheduler is None and saved is None and len(parts) == 1:
        raise InputError(
            f"{name} is {pipeline} without the scheduler that it was trained with: pass it, such "
            "as scheduler=DDPMScheduler()"
        )
    elif len(parts) != 1:
        problem = "has no network of diffusers that can be told apart"
    elif scheduler is None and (not isinstance(saved, list) or saved[:1] != ["diffusers"]):
        problem = "has no scheduler of diffusers"
    elif scheduler is None and _saved_kind(index, "scheduler") is None:
        problem = (
            f"cannot be sampled: there is no conversion for a {str(index['scheduler'][-1])[:60]}, "
            "so pass scheduler=..., one of the same betas that is known, such as DDIMScheduler"
        )
    if problem:
        raise InputError(
            f"{name} is {pipeline}, which {problem}; a denoiser can be made of DDPMPipeline, "
            "DDIMPipeline, DiTPipeline and others with one unconditional or class-conditional unet "
            "or transformer of diffusers"
        )
    if scheduler is None:
        scheduler = _component(folder, index, "scheduler")
    network = _component(folder, index, parts[0], variant=variant, torch_dtype=torch_dtype)
    try:
        return DiffusersDenoiser(network, scheduler, null=null).eval()
    except ValueError as error:
        raise InputError(
            f"{name} is {pipeline}, of which no denoiser can be made: {error}"
        ) from error


def _index(folder: Path) -> dict[str, Any]:
    """`model_index.json`, or what it would say of a network, and perhaps a scheduler, alone."""
    if (folder / INDEX).is_file() or not (folder / _CONFIG).is_file():
        return _read_index(folder)
    kind = read_object(folder / _CONFIG, advice="save it again").get("_class_name")
    index: dict[str, Any] = {"_class_name": kind, "unet": ["diffusers", kind]}
    if (path := folder / _SCHEDULER).is_file():
        kind = read_object(path, advice="save it again").get("_class_name")
        index["scheduler"] = ["diffusers", kind]
    return index


def _read_index(folder: Path) -> dict[str, Any]:
    """What `model_index.json` says: the pipeline's class and the class of each component."""
    path = folder / INDEX
    if not path.is_file():
        raise InputError(
            f"no diffusers pipeline in {folder}: expected {INDEX} there, or the {_CONFIG} of a "
            "network; name a folder that save_pretrained wrote"
        )
    return read_object(path, advice="save it again")


def _from_hub(
    name: str, subfolder: str, revision: str | None, variant: str | None, token: str | None
) -> Path:
    """The network's and the scheduler's files in a copy, and no others."""
    offline = huggingface_hub.is_offline_mode()
    start = f"{subfolder}/" if subfolder else ""
    places = [start, *(f"{start}{part}/" for part in _NETWORKS)]
    try:
        if not offline:
            # One question with a time limit: a download alone retries for half a minute.
            info = huggingface_hub.HfApi().model_info(
                name, revision=revision, timeout=_PATIENCE_SECONDS, token=token
            )
            files = [sibling.rfilename for sibling in info.siblings or []]
            for place in places:
                inside = [file[len(place) :] for file in files if file.startswith(place)]
                _check_weights(f"{name}/{place}", inside, variant)
        weights = [f"{_WEIGHTS}.safetensors", f"{_WEIGHTS}-?????-of-?????.safetensors"]
        weights = [f"{_WEIGHTS}*.{variant}*.safetensors"] if variant else weights
        patterns = [f"{start}{file}" for file in (INDEX, _SCHEDULER, f"scheduler/{_SCHEDULER}")]
        patterns += [
            f"{place}{file}"
            for place in places
            for file in (_CONFIG, *weights, f"{_WEIGHTS}*.json")
        ]
        copy = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            token=token,
            allow_patterns=patterns,
            local_files_only=offline,
        )
        return Path(copy) / subfolder
    except InputError:
        raise
    except HFValidationError as error:
        raise InputError(f"there is no folder {name}, and no hub name looks like that") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{name!r} is neither a folder here nor a model on the Hugging Face hub that may be "
            "read; correct the name, or pass token=... if it is private"
        ) from error
    except Exception as error:  # every failure of the network means the same here
        why = "HF_HUB_OFFLINE is set" if offline else reason(error)
        raise InputError(
            f"{name!r} is no folder here, and no pipeline of that name can be had from the "
            f"Hugging Face hub ({why}) or its cache; correct the name or go online"
        ) from error


def _saved_kind(index: dict[str, Any], part: str) -> type[Any] | None:
    """The class that a component is of, `None` if it is absent or none of those that are loaded."""
    names = [name for name in _DIFFUSERS if index.get(part) == ["diffusers", name]]
    return getattr(diffusers, names[0]) if names else None


def _check_weights(place: str, files: Iterable[str], variant: str | None) -> None:
    """Refuse a network's files, by their names, if there are weights but none that can be read."""
    weights = [file for file in files if file.startswith(_WEIGHTS) and not file.endswith(".json")]
    tensors = {variant_of(file) for file in weights if file.endswith(".safetensors")}
    if not weights or variant in tensors:
        return
    if tensors:
        others = " or ".join(f"variant={kind!r}" if kind else "no variant" for kind in tensors)
        raise InputError(f"{place} has no weights of variant={variant!r}: pass {others}")
    raise InputError(
        f"the weights of {place} are saved as {weights[0]}, which may run code when it is read: "
        "if you trust them, load them with diffusers, save them as safetensors by save_pretrained "
        "and name that folder"
    )


def _component(folder: Path, index: dict[str, Any], part: str, **how: Any) -> Any:
    kind: Any = _saved_kind(index, part)
    place = folder / part if (folder / part).is_dir() else folder
    if part != "scheduler":
        how["use_safetensors"] = True
        _check_weights(str(place), (path.name for path in place.iterdir()), how["variant"])
    try:
        if part == "scheduler":
            check_numbers(read_object(place / _SCHEDULER, advice="save it again"))
        else:
            check_saved(kind, place, how["variant"])
        component = kind.from_pretrained(place, local_files_only=True, **how)
        if part != "scheduler":
            check_complete(component)
        return component
    except Exception as error:  # a damaged file fails in as many ways as there are formats
        raise InputError(
            f"the {part} of {folder} cannot be read ({reason(error)}); save it again, its weights "
            "as safetensors"
        ) from error
