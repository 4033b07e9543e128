"""Image folders and parquet files on this machine, as tables."""

import glob
import os
import re
import warnings
from collections import Counter
from itertools import takewhile
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
from datasets import config
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import RepositoryNotFoundError

from hybridgen.data.decode import ENDINGS, FORMATS
from hybridgen.data.parquet import check_unpacked
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
        about = huggingface_hub.HfApi().dataset_info(name, timeout=_PATIENCE_SECONDS)
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
    for path in _strings(getattr(getattr(about, "card_data", None), "configs", None)):
        if path.startswith(("/", "~")) or "://" in path or ".." in path.split("/"):
            raise InputError(
                f"the page of {name!r} says that its data is in {path[:60]!r}, outside of it, and "
                "nothing there is read; take another data set."
            )
    return _read(f"the hub data set {name!r}", name)


def _strings(value: Any) -> list[str]:
    """Every string in nested lists and mappings."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for each in value for text in _strings(each)]
    return [value] if isinstance(value, str) else []


def hub_folders() -> list[Path]:
    """Where downloads from the hub lie."""
    folders = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH)
    return [Path(folder) for folder in (*folders, huggingface_hub.constants.HF_HUB_CACHE)]


_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {spelling: name for name, spellings in _SPLITS.items() for spelling in spellings}
_NO_DATA = {"", ".txt", ".md", ".rst", ".html", ".pdf", ".json", ".yaml", ".yml", ".py", ".log"}
"""Endings of files that nobody misses among images."""

File = tuple[str, ...]
"""The parts of a path inside the data folder."""


def open_folder(path: Path) -> datasets.DatasetDict:
    """The tables of an image folder, a parquet file or a directory of parquet files.

    Sub-folders of images are classes. Where one is called `train` and another `test`, `val`, ...,
    those are splits, and the folders inside are the classes. Folders that all images lie in stand
    for nothing. Links to folders are followed once. What is left out is said in a warning.

    Raises:
        InputError: nothing there that can be read.
    """
    if path.is_file():
        if path.suffix != ".parquet":
            raise InputError(f"{path} is a file, expected an image folder or parquet; give those.")
        return _parquet_tables(path.parent, [(path.name,)], Counter())
    images, parquet, left_out = _listed(path)
    if not images and not parquet:
        raise InputError(
            f"the folder {path} holds no image ({', '.join(FORMATS)}) and no parquet file; give a "
            "folder that does."
        )
    if parquet and (not images or min(map(len, parquet)) <= min(map(len, images))):
        left_out["images beside parquet files"] += len(images)
        tables = _parquet_tables(path, parquet, left_out)
    else:
        left_out["parquet files beside images"] += len(parquet)
        tables = _image_tables(path, images, left_out)
    warn_left_out(str(path), left_out)
    return tables


def warn_left_out(path: str, left_out: Counter[str]) -> None:
    """Say what of the data at `path` is not used, and how much of it."""
    parts = [f"{count} {what}" for what, count in left_out.most_common(4) if count]
    if parts:
        warnings.warn(f"of {path}, these are left out: {', '.join(parts)}", stacklevel=2)


def _listed(root: Path) -> tuple[list[File], list[File], Counter[str]]:
    """The images and the parquet files of a folder, sorted, and how many of what else it holds.

    A link to a folder inside `root` is passed over, for that folder comes by itself.
    """
    images, parquet, left_out = list[File](), list[File](), Counter[str]()
    home = root.resolve()
    visited = {home}

    def unreadable(error: OSError) -> None:
        left_out["folders that may not be read"] += 1

    for folder, folders, names in os.walk(root, onerror=unreadable, followlinks=True):
        visible = [Path(folder, name) for name in sorted(folders) if name[:1] != "."]
        folders.clear()
        for path in visible:
            target = path.resolve()
            if not _is_text(path.name):
                left_out[_NO_TEXT] += 1
                continue
            if path.is_symlink() and target.is_relative_to(home):
                continue
            if target in visited or home.is_relative_to(target):
                left_out["links to folders that are read already or hold this one"] += 1
            elif not path.name.startswith("__"):
                visited.add(target)
                folders.append(path.name)
        parts = Path(folder).relative_to(root).parts
        for name in sorted(name for name in names if name[:1] != "."):
            ending = os.path.splitext(name)[1].lower()
            if not _is_text(name):
                left_out[_NO_TEXT] += 1
            elif ending not in ENDINGS | {".parquet"}:
                left_out[f"files ending in {ending[:12]!r}"] += ending not in _NO_DATA
            elif not os.path.isfile(os.path.join(folder, name)):
                left_out["entries that are no files"] += 1
            else:
                (parquet if ending == ".parquet" else images).append((*parts, name))
    return sorted(images), sorted(parquet), left_out


_NO_TEXT = "files and folders whose names are not in UTF-8"


def _is_text(name: str) -> bool:
    return name.encode(errors="replace") == name.encode(errors="surrogateescape")


def _parquet_tables(root: Path, files: list[File], left_out: Counter[str]) -> datasets.DatasetDict:
    """Split by the words in the files' names, or in those of their folders.

    A `README.md` there is not asked: it could name files elsewhere.
    """
    splits: dict[str, list[str]] = {}
    paths = list[str]()
    for file in files:
        words = [word for part in reversed(file) for word in re.split("[^a-z]+", part.lower())]
        split = next((_SPLIT_OF[word] for word in words if word in _SPLIT_OF), "")
        path = str(root.joinpath(*file))
        splits.setdefault(split, []).append(glob.escape(path))
        paths.append(path)
    if unnamed := splits.pop("", []):
        if "train" in splits:
            left_out["parquet files whose names say no split"] += len(unnamed)
        else:
            splits["train"] = unnamed
    check_unpacked(root, paths)
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return _read(root, "parquet", data_files=splits)
    finally:
        if bars:
            datasets.enable_progress_bars()


def _image_tables(root: Path, images: list[File], left_out: Counter[str]) -> datasets.DatasetDict:
    """Undecoded images; their labels are the sub-folders, if every image lies in one."""
    deep = _shared_depth([image[:-1] for image in images])
    splits: dict[str, list[File]] = {}
    for image in images:
        splits.setdefault(_SPLIT_OF.get(_folder(image, deep).lower(), ""), []).append(image)
    if "train" in splits and len(splits.keys() - {""}) > 1:
        left_out["images beside the folders of the splits"] += len(splits.pop("", []))
        deep += 1
    else:
        splits = {"train": images}
    classes = {_folder(image, deep) for split in splits.values() for image in split}
    labelled = len(classes) > 1 and "" not in classes
    features = {"image": datasets.Image(decode=False)}
    label = {"label": datasets.ClassLabel(names=sorted(classes))} if labelled else {}
    tables = datasets.DatasetDict()
    for name, split in splits.items():
        columns = {"image": [os.path.join(os.path.abspath(root), *image) for image in split]}
        columns |= {"label": [_folder(image, deep) for image in split]} if labelled else {}
        tables[name] = datasets.Dataset.from_dict(columns, datasets.Features(features | label))
    return tables


def _shared_depth(folders: list[File]) -> int:
    """How many folders from the top on all of them lie in."""
    pairs = zip(min(folders), max(folders), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _folder(image: File, depth: int) -> str:
    """The folder at this depth that an image lies in; empty if it lies higher."""
    return image[depth] if len(image) > depth + 1 else ""


def _read(what: object, kind: str, **options: Any) -> datasets.DatasetDict:
    try:
        tables = datasets.load_dataset(kind, **options)
    except (ValueError, OSError, DatasetsError) as error:
        raise InputError(f"{what} cannot be read: {reason(error)}.") from error
    if not isinstance(tables, datasets.DatasetDict):
        raise InputError(f"{what} cannot be read as tables of images.")
    return tables
