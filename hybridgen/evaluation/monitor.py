"""What a person sees of a model while it trains and at its end: pictures, figures, a table."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from hybridgen.data.images import as_images
from hybridgen.data.latents import decode, encode, write_latents
from hybridgen.data.source import Source, labels_in_turn
from hybridgen.evaluation.alarms import distance_name
from hybridgen.evaluation.evaluator import IMAGES, Evaluator, Unmeasurable, build_evaluator
from hybridgen.evaluation.plots import (
    curve_panels,
    curves,
    sample_grid,
    sample_picture,
    save_animation,
)
from hybridgen.evaluation.sharing import gathered_features, rows_of
from hybridgen.files import replacing
from hybridgen.metrics.distances import frechet_distance
from hybridgen.metrics.features import FeatureExtractor, feature_network
from hybridgen.networks.blocks import in_chunks
from hybridgen.protocols import Sampler
from hybridgen.sampling.samplers import AT_ONCE, draw_samples

_FRAMES = 100


class Previews(ABC):
    """Pictures of a model in training, of the same examples every time; what is in them, and the
    figures beside them, is for a class below to say.

    Args:
        folder: of the run; pictures go to `samples/` in it.
        source: what the model was trained on.

    Attributes:
        shares: of the samples measured last over modes or classes, see `Evaluator.shares`.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder, self.source = folder, source
        self.shares: list[float] = []

    @abstractmethod
    def picture(self, model: nn.Module) -> Image.Image:
        """What a person looks at."""

    @abstractmethod
    def figures(self, model: nn.Module, samples: int | None = None) -> dict[str, float]:
        """Metrics of `samples` examples, and what perfect ones get, called `floor_...`."""

    def preview(self, model: nn.Module, step: int) -> Path:
        """Draw the picture into `samples/step-N.png`."""
        path = self.folder / "samples" / f"step-{step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._draw(model, path)
        return path

    def finish(self, model: nn.Module, rows: list[dict[str, Any]]) -> None:
        """Write `samples.png`, `samples.webp` (at most 100 previews in turn) and `curves.png`."""
        last = self._draw(model, self.folder / "samples.png")
        paths = sorted((self.folder / "samples").glob("step-*.png"))
        frames = []
        for path in paths[:: max(1, -(-len(paths) // _FRAMES))]:
            # One may be cut short, or something else.
            if not path.is_file():
                continue
            bombs = Image.DecompressionBombError
            with suppress(OSError, bombs), Image.open(path, formats=["PNG"]) as image:
                if image.size == last.size:
                    frames.append(image.convert("RGB"))
        if frames:
            save_animation(frames, self.folder / "samples.webp")
        if curve_panels(rows):
            curves(rows, self.folder / "curves.png")

    def _draw(self, model: nn.Module, path: Path) -> Image.Image:
        picture = self.picture(model)
        with replacing(path) as file:
            picture.save(file, "png")
        return picture


class Monitor(Previews):
    """Pictures and figures of a model in training, from the same noise every time.

    Args:
        folder, source: see `Previews`.
        sampler: how a model is sampled, such as a `SinglePass` of a generator.
        seed: names the noise.
        accelerator: Accelerate's, of the processes that share the samples of an evaluation.
        others: further samplers, of which the distance is measured and called by its name and
            theirs, such as `frechet_distance_at_1`.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        *,
        sampler: Callable[[Any], Sampler],
        seed: int,
        accelerator: Any = None,
        others: Mapping[str, Callable[[Any], Sampler]] | None = None,
    ) -> None:
        super().__init__(folder, source)
        self.sampler, self.seed, self.accelerator = sampler, seed, accelerator
        self.others = others or {}
        self._evaluators: dict[int | None, Evaluator | None] = {}

    def picture(self, model: nn.Module) -> Image.Image:
        """Samples of the fixed noise; of latents, the images that they stand for."""

        def samples(count: int) -> Tensor:
            return as_images(self.samples(model, count, "preview"), self.source)

        return sample_picture(samples, self.source.mixture)

    def figures(self, model: nn.Module, samples: int | None = None) -> dict[str, float]:
        """Metrics of `samples` fresh samples (as many as the data allows if `None`) and floors.

        Empty where no shipped network knows such data. Every process calls it, and makes and looks
        at its share of the samples; the figures are those of one process, up to rounding.
        """
        if samples not in self._evaluators:
            try:
                self._evaluators[samples] = build_evaluator(
                    self.source,
                    samples=samples,
                    seed=self.seed,
                    intervals=False,
                    accelerator=self.accelerator,
                )
            except Unmeasurable:
                self._evaluators[samples] = None
        evaluator = self._evaluators[samples]
        if evaluator is None:
            return {}
        count, accelerator = evaluator.samples, self.accelerator

        def values(sampler: Callable[[Any], Sampler]) -> dict[str, float]:
            x = self.samples(model, count, "judge", rows_of(count, accelerator), sampler)
            features = gathered_features(evaluator.extractor.extract(x), count, accelerator)
            if sampler is self.sampler:
                self.shares = evaluator.shares(features)
            return evaluator.values(features)

        figures = values(self.sampler)
        distance = distance_name([figures])
        for name, sampler in self.others.items() if distance else ():
            figures[f"{distance}_{name}"] = values(sampler)[distance]
        return figures

    def samples(
        self,
        model: nn.Module,
        count: int,
        purpose: str,
        rows: slice = slice(None),
        sampler: Callable[[Any], Sampler] | None = None,
    ) -> Tensor:
        """`rows` of `count` samples `[count ...]` from the noise that `purpose` names, labels in
        turn."""
        like, label = next(model.parameters()), labels_in_turn(self.source.classes, count)
        key, made = (self.seed, purpose), (sampler or self.sampler)(model)
        return draw_samples(made, count, key, like=like, label=label, rows=rows)


class Reconstructions(Previews):
    """Held-out images beside what an autoencoder makes of them.

    Its figures are the mean absolute error of a value (`l1`) and, where a shipped network knows
    such images, the Frechet distance between features of held-out images and of their
    reconstructions. Perfect ones get 0 for both. It ends with the latents of all examples.
    """

    def picture(self, model: nn.Module) -> Image.Image:
        """Ten rows of ten: images, and below each row what was made of them."""
        x, _ = self.source.reference("held_out", 50)
        both = torch.stack([x, reconstructed(model, x)])
        columns = min(10, len(x))
        both = both[:, : len(x) // columns * columns]
        rows = rearrange(both, "two (r k) c h w -> (r two k) c h w", k=columns)
        return sample_grid(rows, columns)

    def figures(self, model: nn.Module, samples: int | None = None) -> dict[str, float]:
        """Of `samples` held-out images, or of all, at most 10 000."""
        x, _ = self.source.reference("held_out", samples or IMAGES)
        fake = reconstructed(model, x)
        figures = {"l1": float((fake - x).abs().mean())}
        network = feature_network(self.source.shape)
        if network is not None and len(x) > 1:
            extractor = FeatureExtractor(shape=self.source.shape, function=None, network=network)
            features = (extractor.extract(images).features for images in (x, fake))
            figures["frechet_distance"] = frechet_distance(*features)
        return figures | {f"floor_{name}": 0.0 for name in figures}

    def finish(self, model: nn.Module, rows: list[dict[str, Any]]) -> None:
        """Write the pictures and `latents.safetensors`."""
        super().finish(model, rows)
        write_latents(self.folder, model, self.source)


@torch.no_grad()
def reconstructed(autoencoder: nn.Module, x: Tensor) -> Tensor:
    """Images `[b c h w]` encoded to the posterior's mean and decoded, on the CPU."""

    def both(images: Tensor) -> Tensor:
        return decode(autoencoder, encode(autoencoder, images)).cpu()

    return in_chunks(both, x, size=AT_ONCE)


def table(result: Mapping[str, float | None]) -> str:
    """A closing table: each figure beside what perfect samples would get."""
    lines = [f"{'':24}{'measured':>12}{'floor':>12}"]
    for name, value in result.items():
        if not name.startswith("floor_"):
            floor = result.get(f"floor_{name}")
            measured = "infinite" if value is None else f"{value:.4g}"
            lines.append(f"{name:24}{measured:>12}" + ("" if floor is None else f"{floor:12.4g}"))
    return "\n".join(lines)
