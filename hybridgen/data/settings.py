"""Which data, in which form, and how it is augmented."""

from dataclasses import dataclass
from typing import Annotated, Literal

from hybridgen.errors import InputError
from hybridgen.settings import Level, Range, Settings, Share

LATENTS = "latents.safetensors"
"""What makes the folder of an autoencoder's run a data set."""


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """Which data, and in which form.

    Attributes:
        path: `digits`, `ring` or `grid`; else an image folder, a parquet file or directory, the
            folder of a finished run of `autoencoder.py`, whose latents it means, or a name on the
            Hugging Face hub. A folder called `digits` is meant by `./digits`.
        resolution: crop images to the central square and resize them to this many pixels; if not
            given, all images must already be square and of one size.
        channels: 1 for grey or 3 for colour; if not given, all images must be of one kind.
        labels: whether training is class-conditional.
        held_out: share of the examples to measure with, where the data has no test or validation
            split of its own; the built-in sets have a fixed one.
        memory_limit: GiB of bytes up to which images stay in memory; larger sets stream.
        workers: processes that read ahead while streaming.
        identity: of the examples; a run notes it, and data that has changed since is refused.
    """

    path: str = "digits"
    resolution: Annotated[int, Range(1, 4096)] | None = None
    channels: Literal[1, 3] | None = None
    labels: bool = False
    held_out: Share = 1 / 6
    memory_limit: Annotated[float, Range(0, 1e6)] = 2.0
    workers: Annotated[int, Range(0, 64)] = 2
    identity: str | None = None


@dataclass(frozen=True, kw_only=True)
class AugmentSettings(Settings):
    """How strongly real and generated images are changed before the discriminator sees them.

    Attributes:
        strength: probability p of each operation, for each image; the start if `adaptive`.
        adaptive: move p so that the discriminator's `sign_accuracy` of real and fake stays near
            `target`.
        target: wanted `sign_accuracy`, the mean sign of real minus fake logits, below 1.
        speed_images: images in which an adaptive p moves from 0 to 1.
        flips: mirror half of the images left to right; wrong for digits and letters.
    """

    strength: Annotated[float, Range(0, 1)] = 0.0
    adaptive: bool = False
    target: Annotated[float, Range(-1, 1, "()")] = 0.6
    speed_images: Annotated[int, Range(1, 1e9)] = 500_000
    flips: bool = False

    def check_architecture(self, architecture: str) -> None:
        """Refuse, by `InputError`, augmentation of what an `mlp` sees: points."""
        if (self.strength > 0 or self.adaptive) and architecture == "mlp":
            raise InputError(
                "augmentation changes images, and architecture mlp is for points: set "
                "augment.strength 0 and augment.adaptive false"
            )


@dataclass(frozen=True, kw_only=True)
class DiffusionNoiseSettings(Settings):
    """Noise on real and generated samples alike (Diffusion-GAN); off without `highest`.

    Attributes:
        highest: the largest level that the noise may reach, in the scale of the data.
        lowest: the smallest level of a sample with noise.
        clean: share of the pairs without noise.
        target: wanted `sign_accuracy`, the mean sign of real minus fake logits, below 1; above it
            the noise deepens, below it the noise withdraws.
        speed_images: images in which the largest level in use moves from `lowest` to `highest`.
    """

    highest: Level | None = None
    lowest: Level = 0.01
    clean: Annotated[float, Range(0, 1, "[)")] = 0.5
    target: Annotated[float, Range(-1, 1, "()")] = 0.6
    speed_images: Annotated[int, Range(1, 1e9)] = 100_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.highest is not None and not self.lowest < self.highest:
            raise InputError(
                f"diffusion.lowest must be below diffusion.highest, got {self.lowest} and "
                f"{self.highest}: raise highest or lower lowest"
            )

    def check_discriminator(self, noise_conditional: bool, augment: AugmentSettings) -> None:
        """Refuse, by `InputError`, noise of a level that the discriminator does not know."""
        if self.highest is None:
            return
        if not noise_conditional:
            raise InputError(
                "diffusion.highest puts noise of many levels on what the discriminator sees, which "
                "must know them: set discriminator.noise_conditional true"
            )
        if augment.strength > 0 or augment.adaptive:
            raise InputError(
                "augmentation comes after the noise of diffusion.highest and would change its "
                "level: set augment.strength 0 and augment.adaptive false, or leave out "
                "diffusion.highest"
            )
