"""Image folders and parquet files on this machine, as tables."""

import glob
import os
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from PIL import Image

from hybridgen.data.hub import reason
from hybridgen.errors import InputError

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
    if path.is_file():
        if path.suffix != ".parquet":
            raise InputError(f"{path} is a file, expected an image folder or parquet; give those.")
        return _read(path, "parquet", data_files={"train": str(path)})
    kind = _kind(path)
    if kind is None:
        raise InputError(
            f"the folder {path} holds no image and no parquet file; give a folder that does."
        )
    if kind == "parquet":
        return _read(path, str(path))
    splits = _split_folders(path)
    if not splits:
        return _read(
            path, "imagefolder", data_dir=glob.escape(str(path)), data_files={"train": ["**"]}
        )
    files = {name: [f"{folder.name}/**"] for name, folder in splits.items()}
    # Without classes `datasets` would take the names of the splits themselves for labels.
    flat = not any(child.is_dir() for folder in splits.values() for child in folder.iterdir())
    return _read(
        path,
        "imagefolder",
        data_dir=glob.escape(str(path)),
        data_files=files,
        drop_labels=flat or None,
    )


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
    found = {
        name: folder
        for name, spellings in _SPLITS.items()
        for folder in folders
        if folder.name.lower() in spellings
    }
    return found if "train" in found and len(found) == len(folders) else {}


def _read(path: Path, kind: str, **options: Any) -> datasets.DatasetDict:
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        tables = datasets.load_dataset(kind, **options)
    except (ValueError, OSError, DatasetsError) as error:
        raise InputError(f"{path} cannot be read: {reason(error)}.") from error
    finally:
        if bars:
            datasets.enable_progress_bars()
    if not isinstance(tables, datasets.DatasetDict):
        raise InputError(f"{path} cannot be read as tables of images.")
    return tables
