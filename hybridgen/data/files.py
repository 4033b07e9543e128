"""Image folders and parquet files on this machine, as tables."""

import glob
import os
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image

from hybridgen.errors import InputError, reason

_PATIENCE_SECONDS = 10.0


def open_hub(name: str) -> datasets.DatasetDict:
    """Download, or take from the cache, the data set called `name`.

    One question with a time limit goes ahead, because `datasets` alone retries for half a minute
    before it says that there is no network.

    Raises:
        InputError: no such data set, no network, or not readable without further choices.
    """
    if huggingface_hub.is_offline_mode():
        try:
            return _read(f"the hub data set {name!r}", name)
        except InputError as error:
            raise InputError(
                f"{name!r} is no folder here, and as a hub name it cannot be downloaded while "
                "HF_HUB_OFFLINE is set and is not in the cache; correct the path or go online."
            ) from error
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=_PATIENCE_SECONDS)
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{name!r} is neither a folder here nor a data set on the Hugging Face hub that may "
            "be read; correct data.path, or log in to the hub if it is private."
        ) from error
    except Exception as error:  # every failure of the network means the same here
        raise InputError(
            f"{name!r} is no folder here, and the Hugging Face hub cannot be reached "
            f"({reason(error)}); correct data.path, go online, or set HF_HUB_OFFLINE=1 "
            "to use a copy downloaded before."
        ) from error
    return _read(f"the hub data set {name!r}", name)


_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def open_folder(path: Path) -> datasets.DatasetDict:
    """The tables of an image folder, a parquet file or a directory of parquet files.

    Sub-folders of images are classes, unless all of them are called `train`, `test`, ...: those
    are splits, and the folders inside are the classes.

    Raises:
        InputError: nothing there that can be read.
    """
    kind, options = _how_to_read(path)
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return _read(path, kind, **options)
    finally:
        if bars:
            datasets.enable_progress_bars()


def _how_to_read(path: Path) -> tuple[str, dict[str, Any]]:
    """The arguments of `load_dataset` for what lies at `path`."""
    if path.is_file():
        if path.suffix != ".parquet":
            raise InputError(f"{path} is a file, expected an image folder or parquet; give those.")
        return "parquet", {"data_files": {"train": str(path)}}
    kind = _kind(path)
    if kind is None:
        raise InputError(
            f"the folder {path} holds no image and no parquet file; give a folder that does."
        )
    if kind == "parquet":
        return str(path), {}
    options: dict[str, Any] = {"data_dir": glob.escape(str(path)), "data_files": {"train": ["**"]}}
    if splits := _split_folders(path):
        options["data_files"] = {name: [f"{folder.name}/**"] for name, folder in splits.items()}
        # Without classes `datasets` would take the names of the splits themselves for labels.
        flat = not any(child.is_dir() for folder in splits.values() for child in folder.iterdir())
        options["drop_labels"] = flat or None
    return "imagefolder", options


def _kind(path: Path) -> str | None:
    """`image` or `parquet`, whichever comes first in the folder."""
    Image.init()
    images = {ext for ext, name in Image.registered_extensions().items() if name in Image.OPEN}
    for _, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        endings = {os.path.splitext(name)[1].lower() for name in files if name[0] != "."}
        if ".parquet" in endings:
            return "parquet"
        if endings & images:
            return "image"
    return None


def _split_folders(path: Path) -> dict[str, Path]:
    """The folders of the splits by their usual names; empty if the folder is not split so."""
    folders = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))]
    splits = {
        name: folder
        for name, spellings in _SPLITS.items()
        for folder in folders
        if folder.name.lower() in spellings
    }
    return splits if "train" in splits and len(splits) == len(folders) else {}


def _read(what: object, kind: str, **options: Any) -> datasets.DatasetDict:
    try:
        tables = datasets.load_dataset(kind, **options)
    except (ValueError, OSError, DatasetsError) as error:
        raise InputError(f"{what} cannot be read: {reason(error)}.") from error
    if not isinstance(tables, datasets.DatasetDict):
        raise InputError(f"{what} cannot be read as tables of images.")
    return tables
