"""A pipeline's files from the Hugging Face hub: settings and weights, never code or pickles."""

from pathlib import Path

import huggingface_hub

from hybridgen.errors import InputError

_WANTED = ["*.json", "*.safetensors", "*.md"]


def download(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> str:
    """The folder of the cache where the repository `name` now lies.

    Raises:
        InputError: no such repository, no network, or a name that is none.
    """
    try:
        return huggingface_hub.snapshot_download(
            name,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
            allow_patterns=_WANTED,
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")[:300]
        raise InputError(
            f"{name!r} is no folder here, and cannot be had from the Hugging Face hub ({reason}); "
            "correct the name, or go online"
        ) from error
