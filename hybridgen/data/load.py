"""From a name or a path to a source."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridgen.data.images import ImageSource, digits
from hybridgen.data.points import MixturePoints
from hybridgen.data.settings import LATENTS, DataSettings
from hybridgen.data.source import Source, identity_of
from hybridgen.errors import InputError, quoted, reason
from hybridgen.files import read_object
from hybridgen.maths.mixtures import grid, ring
from hybridgen.settings import check_memory

_MIXTURES = {"ring": ring, "grid": grid}
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def load_data(settings: DataSettings) -> Source:
    """The source that `settings` describe.

    Raises:
        InputError: the data is missing, unreadable, does not fit the settings, or is not what their
            `identity` says.
    """
    source = _source(settings)
    if settings.identity not in (None, source.identity):
        raise InputError(
            f"the examples of {settings.path!r} are not those that were trained on (some were "
            "added, removed, changed or renamed): give the data as it was, or train again"
        )
    return source


def identified(settings: Any, source: Source) -> Any:
    """An experiment's settings, whose `data` from now on means these examples alone."""
    return replace(settings, data=replace(settings.data, identity=source.identity))


def _source(settings: DataSettings) -> Source:
    if settings.path in _MIXTURES:
        if settings.resolution is not None or settings.channels is not None:
            raise InputError(
                f"{settings.path!r} is made of points, so leave data.resolution and data.channels "
                "out."
            )
        mixture = _MIXTURES[settings.path]().standardised()
        return MixturePoints(mixture=mixture, name=settings.path, labelled=settings.labels)
    if settings.path != "digits":
        return _images(settings)
    if settings.resolution not in (None, 8) or settings.channels not in (None, 1):
        raise InputError(
            "the built-in digits are grey 8x8 images, got "
            f"data.resolution={settings.resolution} and data.channels={settings.channels}; "
            "leave both out."
        )
    return digits(labelled=settings.labels)


def _images(settings: DataSettings) -> Source:
    # `datasets` takes a second to import, which points and digits need not pay.
    from hybridgen.data.files import hub_folders, open_folder, open_hub
    from hybridgen.data.streamed import StreamedSource
    from hybridgen.data.tables import train_and_held_out

    try:
        path = Path(settings.path).expanduser()
        exists = path.exists()
        name = path.name if path.name not in ("", "..") else path.resolve().name
    except (OSError, RuntimeError) as error:  # a name too long, a user that does not exist
        raise InputError(
            f"data.path {quoted(settings.path)} cannot be a folder: {reason(error)}"
        ) from error
    if not name:
        raise InputError("data.path is the whole file system: name a folder of images")
    if exists and (path / LATENTS).is_file():
        return _latents(path, settings)
    if exists and (path / "config.yaml").is_file() and (path / "checkpoints").is_dir():
        raise InputError(
            f"{quoted(settings.path)} is a run without latents: name one of experiments/"
            "autoencoder.py that is finished, or a folder of images"
        )
    if exists:
        tables, roots = open_folder(path), [path if path.is_dir() else path.parent]
    elif _HUB_NAME.fullmatch(settings.path):
        tables, roots = open_hub(settings.path), hub_folders()
    else:
        raise InputError(f"there is no folder {quoted(settings.path)}; correct data.path.")
    train, held_out, classes = train_and_held_out(tables, settings, roots)
    classes = classes if settings.labels else 0
    gibibytes = (len(train) + len(held_out)) * math.prod(train.format.shape) / 2**30
    if gibibytes > settings.memory_limit:
        parts = {"train": train, "held_out": held_out}
        return StreamedSource(name=name, classes=classes, workers=settings.workers, **parts)
    check_memory(gibibytes * 2**30, "the images", "lower data.memory_limit, so that they stream")
    return ImageSource(
        name=name,
        train=train.read_all(),
        held_out=held_out.read_all(),
        train_labels=train.labels,
        held_out_labels=held_out.labels,
        classes=classes,
        identity=identity_of(train.identity, held_out.identity),
    )


def _latents(path: Path, settings: DataSettings) -> Source:
    """The latents in the folder of an autoencoder's run, and the images it was trained on."""
    from hybridgen.data.latents import read_latents

    if settings.resolution is not None or settings.channels is not None:
        raise InputError(
            f"the latents in {quoted(settings.path)} are as the autoencoder made them: leave "
            "data.resolution and data.channels out"
        )
    config = read_object(path / "config.yaml", {"data": dict}, advice="train it again")["data"]
    try:
        images = DataSettings(**config)
        if images.path not in (*_MIXTURES, "digits") and (Path(images.path) / LATENTS).exists():
            raise InputError("latents of latents are no data")
        source = load_data(images)
    except (TypeError, ValueError, OSError) as error:
        raise InputError(
            f"the images of the autoencoder in {quoted(settings.path)} are needed and cannot be "
            f"read: {reason(error)}"
        ) from error
    return read_latents(path, source, labelled=settings.labels)
