"""What is done to all that a discriminator sees, so that it is not too good at its task."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from hybridgen.data.settings import AugmentSettings, DiffusionNoiseSettings
from hybridgen.errors import InputError
from hybridgen.losses.denoising import noised
from hybridgen.maths.noise import like

_SHIFT = 0.125  # of the image's side
_TURN = 15.0  # degrees
_ZOOM = 0.2  # standard deviation of log2
_BRIGHTNESS = 0.2  # standard deviation, for values in [-1, 1]
_CONTRAST = 0.5  # standard deviation of log2


class Augment(nn.Module):
    """Random changes that can be differentiated twice, `[b c h w] -> [b c h w]`.

    Shift, rotation, zoom, brightness and contrast are each applied to each image with probability
    `strength`, and mirroring with half of it if wanted. Below strength 1 some images are left as
    they are, which is what keeps the changes out of the generator's images.

    Source: Karras et al. 2020, arXiv:2006.06676, sections 2.2 and 3, with milder operations.

    Raises:
        InputError: kornia is not installed.
    """

    strength: Tensor

    def __init__(self, settings: AugmentSettings) -> None:
        super().__init__()
        try:
            import kornia  # noqa: F401
        except ImportError as error:
            raise InputError(
                "augmentation needs kornia, which is not installed; "
                "run `pip install 'hybridgen[augment]'` or switch augmentation off."
            ) from error
        self.settings = settings
        self.register_buffer("strength", torch.tensor(float(settings.strength)))

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Change `x`, in about [-1, 1]; values are not clipped, so no gradient is lost.

        Random numbers come from `generator`, or else from torch's own.
        """
        if x.ndim != 4:
            raise ValueError(f"expected images [b c h w], got {tuple(x.shape)}")
        draw = _Draw(x, self.strength, generator)
        return _colour(_geometry(x, draw, self.settings.flips), draw)

    @torch.no_grad()
    def update(self, sign_accuracy: float | Tensor, images: int) -> None:
        """Move the strength by `move`, if it is adaptive."""
        if self.settings.adaptive:
            move(self.strength, sign_accuracy, images, self.settings)


class DiffusionNoise(nn.Module):
    """Gaussian noise of many levels on real and generated samples, for a discriminator that is told
    the level, `sigma`.

    A share `clean` of the pairs stays as it is, or the generator would never be asked for what the
    least noise hides. The levels of the others are log-uniform from `lowest` to
    `lowest (highest / lowest)^depth`, so that every scale counts alike however deep the noise is:
    the paper's steps, drawn uniformly, are about that, because the noise of its chain grows about
    exponentially with the step. Real and generated samples share a level, not the noise.

    Source: Wang et al. 2022, arXiv:2206.02262, section 3, where half of the samples see t = 0. Its
    T is `depth = (T - T_min) / (T_max - T_min)` here, and samples are not scaled down.

    Attributes:
        depth: in [0, 1], at first 0; a scalar that checkpoints hold.

    Raises:
        InputError: settings without a `highest` level.
    """

    depth: Tensor

    def __init__(self, settings: DiffusionNoiseSettings) -> None:
        super().__init__()
        if settings.highest is None:
            raise InputError("noise needs the largest level that it may reach: give highest")
        self.settings, self.ratio = settings, settings.highest / settings.lowest
        self.register_buffer("depth", torch.zeros(()))

    def level(self, uniform: Tensor) -> Tensor:
        """Numbers `[b]`, uniform in [0, 1), to levels `[b]`, of which a share is 0."""
        clean = self.settings.clean
        place = (uniform - clean) / (1 - clean)
        return torch.where(
            place < 0, 0.0, self.settings.lowest * self.ratio ** (self.depth * place)
        )

    def forward(
        self, real: Tensor, fake: Tensor, real_noise: Tensor, fake_noise: Tensor, uniform: Tensor
    ) -> dict[str, Tensor]:
        """Noisy samples `[b ...]` and their level `[b]`, by the names of an adversarial loss.

        Args:
            real_noise, fake_noise: `[b ...]`, standard normal.
            uniform: `[b]`, for the levels, see `level`.
        """
        sigma = self.level(uniform)
        real, fake = noised(real, sigma, real_noise), noised(fake, sigma, fake_noise)
        return {"real": real, "fake": fake, "sigma": sigma}

    @torch.no_grad()
    def update(self, sign_accuracy: float | Tensor, images: int) -> None:
        """Move the depth by `move`, as the paper does `T <- T + sgn(r - target) C`."""
        move(self.depth, sign_accuracy, images, self.settings)


class Replay:
    """Past generated samples, of which a discriminator sees a share, so that it does not forget.

    Once it is full, as many as are taken out of a batch are replaced by new ones, at random.
    Source: Shrivastava et al. 2017, arXiv:1612.07828, section 2.3, with a share of 1/2.

    Args:
        share: of the discriminator's generated samples.
        size: how many are kept.
        device: where.
    """

    def __init__(self, share: float, size: int, device: torch.device | str = "cpu") -> None:
        self.share, self.size, self.device = share, size, device
        self.samples: Tensor | None = None

    def draws(self, batch: int, generator: torch.Generator) -> Tensor:
        """Which past sample takes the place of each new one, `[b]`; -1 for none."""
        past, place = torch.rand(2, batch, generator=generator, device=self.device)
        kept = 0 if self.samples is None else len(self.samples)
        index = (place * kept).long().clamp(max=kept - 1)
        return torch.where(past < self.share, index, -1)

    def mixed(self, fake: Tensor, index: Tensor) -> Tensor:
        """`fake [b ...]`, some replaced by what `draws` says."""
        if self.samples is None:
            return fake
        past = self.samples[index].to(fake.dtype)
        return torch.where(like(index, fake) < 0, fake, past)

    def add(self, fake: Tensor, generator: torch.Generator) -> None:
        """Keep some of the new samples `[b ...]` of a whole batch."""
        order = torch.randperm(len(fake), generator=generator, device=self.device)
        samples = fake[:0] if self.samples is None else self.samples
        appended = order[: self.size - len(samples)]
        if not len(appended):
            count = min(max(round(self.share * len(fake)), 1), self.size)
            place = torch.randperm(self.size, generator=generator, device=self.device)[:count]
            samples[place] = fake[order[: len(place)]]
        self.samples = torch.cat([samples, fake[appended]]) if len(appended) else samples

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.samples is None else {"samples": self.samples}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.samples = state["samples"].to(self.device) if state else None


def packed(x: Tensor, count: int) -> Tensor:
    """Neighbouring samples joined on their first axis: `[(b m) c ...] -> [b (m c) ...]`.

    Samples of a generator that has lost variety are more alike than real ones, which a
    discriminator of single samples cannot see. Source: Lin et al. 2018, arXiv:1712.04086.
    """
    return rearrange(x, "(b m) c ... -> b (m c) ...", m=count)


def move(
    strength: Tensor,
    sign_accuracy: float | Tensor,
    images: int,
    settings: AugmentSettings | DiffusionNoiseSettings,
) -> None:
    """Change a strength in [0, 1], a scalar, in place, after `images` more real images:
    `p <- clip(p + sgn(sign_accuracy - target) images / speed_images, 0, 1)`.

    With several processes, give all of them the mean over all.

    Args:
        sign_accuracy: a number, or a scalar on the device of the strength, which is not read.

    Raises:
        ValueError: `sign_accuracy` outside [-1, 1], not a number, or negative `images`.
    """
    if images < 0 or not (isinstance(sign_accuracy, Tensor) or -1 <= sign_accuracy <= 1):
        raise ValueError(
            f"need sign_accuracy in [-1, 1] and images >= 0, got {sign_accuracy=}, {images=}"
        )
    direction = torch.as_tensor(sign_accuracy - settings.target).sign()
    strength.add_(direction * (images / settings.speed_images)).clamp_(0, 1)


def twice_differentiable() -> bool:
    """Whether the installed torch differentiates twice through the resampling."""
    x, places = torch.zeros(1, 1, 2, 2, requires_grad=True), torch.zeros(1, 2, 2, 2)
    moved = F.grid_sample(x, places, align_corners=False)
    (gradient,) = torch.autograd.grad(moved.square().sum(), x, create_graph=True)
    try:
        gradient.sum().backward()
    except RuntimeError:
        return False
    return True


class _Draw:
    """Random numbers `[b]` for one batch, neutral where an operation is not applied."""

    def __init__(self, x: Tensor, strength: Tensor, generator: torch.Generator | None) -> None:
        self.x, self.strength, self.generator = x, strength, generator

    def applied(self) -> Tensor:
        """Whether the operation is applied to each image, bool `[b]`; never at strength 0."""
        return self.uniform() < self.strength

    def uniform(self, *more: int) -> Tensor:
        return torch.rand(len(self.x), *more, generator=self.generator, device=self.x.device)

    def between(self, bound: float, axes: int = 1) -> Tensor:
        """Uniform in `[-bound, bound]`, 0 where not applied; `[b axes]`."""
        applied = rearrange(self.applied(), "b -> b 1")
        return torch.where(applied, (2 * self.uniform(axes) - 1) * bound, 0.0)

    def gaussian(self, std: float) -> Tensor:
        """Normal of mean 0, and 0 where not applied; `[b]`."""
        normal = torch.randn(len(self.x), generator=self.generator, device=self.x.device)
        return torch.where(self.applied(), normal * std, 0.0)


def _geometry(x: Tensor, draw: _Draw, flips: bool) -> Tensor:
    """Shift, rotation, zoom and mirroring in one bilinear resampling; edges are reflected."""
    from kornia.geometry.transform import get_affine_matrix2d, warp_affine

    height, width = x.shape[-2:]
    # Filled where it is needed: a copy of host memory would be waited for.
    sides = torch.stack([x.new_full((), side, dtype=torch.float32) for side in (width, height)])
    shift = draw.between(_SHIFT, axes=2) * sides
    turn = rearrange(draw.between(_TURN), "b 1 -> b")
    zoom = rearrange(torch.exp2(draw.gaussian(_ZOOM)), "b -> b 1").expand(-1, 2)
    centre = ((sides - 1) / 2).expand(len(x), 2)
    matrix = get_affine_matrix2d(shift, centre, zoom, turn)
    moved = (matrix != torch.eye(3, device=x.device)).flatten(1).any(1)
    warped = warp_affine(x.float(), matrix[:, :2], (height, width), padding_mode="reflection")
    # Resampling rounds even where nothing moves; an image left alone must stay itself.
    x = torch.where(rearrange(moved, "b -> b 1 1 1"), warped.to(x.dtype), x)
    if not flips:
        return x
    mirrored = draw.applied() & (draw.uniform() < 0.5)
    return torch.where(rearrange(mirrored, "b -> b 1 1 1"), x.flip(-1), x)


def _colour(x: Tensor, draw: _Draw) -> Tensor:
    """`contrast x + brightness`, around mid-grey; kornia's own would clip to [0, 1]."""
    contrast = torch.exp2(draw.gaussian(_CONTRAST)).to(x.dtype)
    brightness = draw.gaussian(_BRIGHTNESS).to(x.dtype)
    return x * rearrange(contrast, "b -> b 1 1 1") + rearrange(brightness, "b -> b 1 1 1")
