"""Small image files made for one test, and a cache of its own."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """A random image that is a function of `seed`."""

    def make(seed: int = 0, size: tuple[int, int] = (8, 8), mode: str = "L") -> Image.Image:
        shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        return Image.fromarray(pixels).convert(mode)

    return make


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., Image.Image]) -> Callable[..., Path]:
    """Write `count` PNG files into each of the named sub-folders of a new folder."""

    def write(*names: str, count: int = 6, mode: str = "L", size: tuple[int, int] = (8, 8)) -> Path:
        root = tmp_path / "pictures"
        for order, name in enumerate(names or ("",)):
            (root / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture(100 * order + i, size, mode).save(root / name / f"{i:03}.png")
        return root

    return write
