"""What a person sees of a model while it trains and at its end: pictures, figures, a table."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from hybridgen.data.source import Source, labels_in_turn
from hybridgen.evaluation.evaluator import Evaluator, Unmeasurable, build_evaluator
from hybridgen.evaluation.plots import curve_panels, curves, sample_picture, save_animation
from hybridgen.evaluation.sharing import gathered_features, rows_of
from hybridgen.files import replacing
from hybridgen.protocols import Sampler
from hybridgen.sampling.samplers import draw_samples

_FRAMES = 100


class Monitor:
    """Pictures and figures of a model in training, from the same noise every time.

    Args:
        folder: of the run; pictures go to `samples/` in it.
        source: what the samples should be like.
        sampler: how a model is sampled, such as a `SinglePass` of a generator.
        seed: names the noise.
        accelerator: Accelerate's, of the processes that share the samples of an evaluation.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        *,
        sampler: Callable[[Any], Sampler],
        seed: int,
        accelerator: Any = None,
    ) -> None:
        self.folder, self.source, self.sampler, self.seed = folder, source, sampler, seed
        self.accelerator = accelerator
        self._evaluators: dict[int | None, Evaluator | None] = {}

    def preview(self, model: nn.Module, step: int) -> Path:
        """Draw samples of the fixed noise into `samples/step-N.png`."""
        path = self.folder / "samples" / f"step-{step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._draw(model, path)
        return path

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
        x = self.samples(model, count, "judge", rows_of(count, accelerator))
        features = evaluator.extractor.extract(x)
        return evaluator.values(gathered_features(features, count, accelerator))

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
        samples = partial(self.samples, model, purpose="preview")
        picture = sample_picture(samples, self.source.mixture)
        with replacing(path) as file:
            picture.save(file, "png")
        return picture

    def samples(
        self, model: nn.Module, count: int, purpose: str, rows: slice = slice(None)
    ) -> Tensor:
        """`rows` of `count` samples `[count ...]` from the noise that `purpose` names, labels in
        turn."""
        like, label = next(model.parameters()), labels_in_turn(self.source.classes, count)
        key = self.seed, purpose
        return draw_samples(self.sampler(model), count, key, like=like, label=label, rows=rows)


def table(result: Mapping[str, float | None]) -> str:
    """A closing table: each figure beside what perfect samples would get."""
    lines = [f"{'':24}{'measured':>12}{'floor':>12}"]
    for name, value in result.items():
        if not name.startswith("floor_"):
            floor = result.get(f"floor_{name}")
            measured = "infinite" if value is None else f"{value:.4g}"
            lines.append(f"{name:24}{measured:>12}" + ("" if floor is None else f"{floor:12.4g}"))
    return "\n".join(lines)
