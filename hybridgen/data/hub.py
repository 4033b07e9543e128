"""Data sets by their name on the Hugging Face hub."""

import datasets
import huggingface_hub
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import RepositoryNotFoundError

from hybridgen.errors import InputError

_PATIENCE_SECONDS = 10.0


def open_hub(name: str) -> datasets.DatasetDict:
    """Download, or take from the cache, the data set called `name`.

    One question with a time limit goes ahead, because `datasets` alone retries for half a minute
    before it says that there is no network.

    Raises:
        InputError: no such data set, no network, or not readable without further choices.
    """
    if not huggingface_hub.is_offline_mode():
        _ask(name)
    try:
        tables = datasets.load_dataset(name)
    except (ValueError, OSError, DatasetsError) as error:
        if huggingface_hub.is_offline_mode():
            raise InputError(
                f"{name!r} is no folder here, and as a hub name it cannot be downloaded while "
                "HF_HUB_OFFLINE is set and is not in the cache; correct the path or go online."
            ) from error
        raise InputError(f"the hub data set {name!r} cannot be read: {reason(error)}.") from error
    if not isinstance(tables, datasets.DatasetDict):
        raise InputError(f"the hub data set {name!r} cannot be read as tables of images.")
    return tables


def reason(error: BaseException) -> str:
    """What an error, or better its cause, has to say: one line of bounded length."""
    text = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return text[:300].rstrip(".")


def _ask(name: str) -> None:
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
