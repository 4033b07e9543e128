"""The adversarial loss, for a GAN or as an extra term on any other model."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybridgen.losses.answers import read_answer
from hybridgen.losses.batches import (
    Inputs,
    check_batches,
    check_finite_samples,
    check_rows,
    mapped,
    stacked,
)
from hybridgen.losses.discriminators import (
    check_discriminator,
    check_finite_difference,
    check_weights,
    frozen_norms,
    takes,
)
from hybridgen.losses.lecam import LeCam
from hybridgen.losses.reduction import (
    Several,
    check_several,
    feature_matching,
    processes,
    reduced,
)
from hybridgen.maths import objectives
from hybridgen.maths.penalties import (
    interpolates,
    one_centred,
    squared_gradient_norm,
    squared_slope,
)

Maps = Sequence[Tensor]
"""Numbers `[b]` or `[b ...]` of each discriminator."""
_eagerly: Any = torch.compiler.disable


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients flow through `module` without collecting any in its own parameters."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)


def _checked(name: str, check: Callable[..., None]) -> Any:
    """An attribute that `check` looks at whenever it is set."""

    def set_value(module: nn.Module, value: Any) -> None:
        if value is None or not 0 < value < math.inf:  # loops set good numbers in every step
            check(**{name: value})
        vars(module)[f"_{name}"] = value

    return property(lambda module: vars(module)[f"_{name}"], set_value)


class Lent(dict[str, Tensor]):
    """What a discriminator lends, by name."""

    def __missing__(self, name: str) -> Tensor:
        raise ValueError(
            f"there is no {name!r} among {sorted(self)}: feature matching needs `real`, and a "
            "discriminator that answers with features (of those here, features=True)"
        )


class AdversarialLoss(nn.Module):
    """A discriminator, its objective, and how smooth it is kept.

    `forward` is the loss of this module's own parameters, the discriminator's: wrap the whole
    object with `accelerator.prepare` and gradients are synchronised. `generator_loss` is what it
    lends to another model: it trains nothing in here, and is called on the unwrapped object.

    A discriminator answers one logit a sample, a map of patches, a list of these (several
    discriminators or scales) or `hybridgen.Answer(logits, features)`. The game is played at every
    entry, then averaged over map and batch, then over the list. Penalties are of each discriminator
    by itself, see `hybridgen.maths.penalties`; patches that do not overlap count as pictures of
    their own, so that the size of a picture does not matter.

    The discriminator here learns to tell apart the `real` and `fake` batches given to it. A
    discriminator that guides a sampler has to be trained on that sampler's finished outputs at
    every noise level instead.

    Losses are computed in float32 whatever autocast says. In its own loss a discriminator that is
    penalised runs in float32 too (a slope in bfloat16 has three digits, and its square fewer) if
    its weights are. Where its exact gradient is penalised it runs without `torch.compile` and fused
    attention, which have no double backward. Under `torch.no_grad()` and `torch.inference_mode()`
    all losses are computed, penalties too, and have no gradient.

    Args:
        discriminator: see `hybridgen.protocols.Discriminator`; a compiled one is saved under its
            own names.
        objective: what both minimise, or its name; `relativistic` if not given.
        r1, r2: weights of the squared gradient on real and on generated samples; each counts as
            `weight / 2 * E |grad|^2` (Mescheder et al. 2018, arXiv:1801.04406).
        gp: weight of the one-centred penalty between them (arXiv:1704.00028).
        lecam: keeps logits near the other side's average.
        finite_difference: the step e, in units of the data, by which R1 and R2 are estimated
            without a double backward; exact gradients if `None`.
        float32: run the discriminator's own loss in float32 even if nothing is penalised, as a
            guide needs, whose slope is used.
        augment: applied to real and fake alike before the discriminator sees them, in both players'
            losses; penalties are taken with respect to the samples before it. Conditions stay.
        several: `mean` or `sum` over a list of discriminators: of game, penalties and features.
        normalised_features: see `hybridgen.feature_matching`.
        check_finite: on a CPU, where a loss is not finite, say which samples were not. On an
            accelerator nothing is read, so that nobody waits for it.

    `r1`, `r2`, `gp` and `finite_difference` may be changed between steps, by a schedule for
    example; the first three are saved.

    Raises:
        ValueError: a negative weight, a discriminator that normalises across the batch or whose
            forward does not take `(x, sigma, label)`, finite differences through an augmentation.
    """

    r1: float = _checked("r1", check_weights)
    r2: float = _checked("r2", check_weights)
    gp: float = _checked("gp", check_weights)
    finite_difference: float | None = _checked("finite_difference", check_finite_difference)

    def __init__(
        self,
        discriminator: nn.Module,
        objective: objectives.Objective | str = objectives.relativistic,
        *,
        r1: float = 0.0,
        r2: float = 0.0,
        gp: float = 0.0,
        lecam: LeCam | None = None,
        finite_difference: float | None = None,
        float32: bool = False,
        augment: Callable[[Tensor], Tensor] | None = None,
        several: Several = "mean",
        normalised_features: bool = False,
        check_finite: bool = True,
    ) -> None:
        super().__init__()
        original = getattr(discriminator, "_orig_mod", discriminator)
        check_discriminator(original)
        check_finite_difference(finite_difference, augmented=augment is not None)
        check_several(several)
        if lecam is not None and not isinstance(lecam, LeCam):
            raise ValueError(f"lecam keeps averages: give LeCam({lecam!r}) and not {lecam!r}")
        self.discriminator = original
        # In a tuple, where `state_dict` does not look: its names would begin with `_orig_mod`.
        self._compiled = () if discriminator is original else (discriminator,)
        self._frozen_norms = frozen_norms(original)
        self.objective = (
            objectives.objective(objective) if isinstance(objective, str) else objective
        )
        self.r1, self.r2, self.gp, self.lecam = r1, r2, gp, lecam
        self.finite_difference, self.float32, self.augment = finite_difference, float32, augment
        self.several: Several = several
        self.normalised_features, self.check_finite = normalised_features, check_finite

    def get_extra_state(self) -> Tensor:
        """The weights of the penalties, which a schedule may have moved."""
        return torch.tensor([self.r1, self.r2, self.gp], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on with these weights."""
        self.r1, self.r2, self.gp = state.tolist()

    def forward(
        self,
        *,
        real: Tensor,
        fake: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        condition: Any = None,
        fake_label: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        rng: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The discriminator's loss: `total`, which has gradients, and its parts.

        One call of the discriminator on real and fake stacked: the two halves see the same weights,
        one gradient call yields both penalties, and distributed training sees one forward pass. If
        the exact gradient of one half alone is penalised, each half has a call of its own, because
        the other half's gradient would cost as much.

        Args:
            real, fake: `[b ...]`, of one shape; gradients into them are cut. Batches of different
                sizes are taken if nothing pairs them: a relativistic objective, GP, or something
                below that both share.
            sigma: `[b]`, the noise level at which they are compared; zeros if not given.
            label: `[b]`, shared by both halves.
            condition: `[b ...]`, or a tuple, list or dict of such, shared by both halves: the
                discriminator's fourth argument. No penalty is taken with respect to it.
            fake_label: `[b]`, of the fake half where it differs; not with GP.
            sample_weight: `[b]`, of each pair, in the game and in R1 and R2 and GP. The mean is of
                this call: micro-batches of different weights count alike. Where gradients are off
                it is of this process, so that one may evaluate alone.
            mask: `[b *spatial]`, the weight of each place in the game.
            rng: draws the directions of finite differences and GP's interpolates.

        Returns:
            Scalars: `total`, `adversarial`, the unweighted penalties that have weight (`r1`, `r2`,
            `gp`, `lecam`), the mean logits `logit_real` and `logit_fake`, and `sign_accuracy`, the
            mean sign of real minus fake logits: 0 where the discriminator cannot tell them apart, 1
            where it always can. Unlike the sign of the real logits it means the same for objectives
            that know only differences.

        Raises:
            ValueError: batches or answers that cannot be used.
        """
        if fake_label is not None and (label is None or self.gp > 0):
            came = "label None" if label is None else f"gp={self.gp}"
            raise ValueError(
                "fake_label is of the fake half where label is of the real one, and not with gp, "
                f"whose interpolates share one label a pair, got fake_label and {came}: give both, "
                "or label alone for both"
            )
        shared = {"sigma": sigma, "condition": condition}
        shared |= {"sample_weight": sample_weight, "mask": mask}
        own_label = fake_label is not None
        self._check(real, fake, **shared, label=None if own_label else label)
        if own_label:
            check_rows("label", label, len(real))
            check_rows("fake_label", fake_label, len(fake))
        training, device = torch.is_grad_enabled(), real.device.type
        weighting = {"several": self.several, "sample_weight": sample_weight, "shared": training}
        exact = self.finite_difference is None and max(self.r1, self.r2) > 0
        in_float32 = max(self.r1, self.r2, self.gp) > 0 or self.float32
        dtype = torch.promote_types(real.dtype, fake.dtype)
        dtype = torch.promote_types(dtype, torch.float32) if in_float32 else dtype
        with ExitStack() as stack:
            if exact or self.gp > 0:
                stack.enter_context(torch.inference_mode(False))
                stack.enter_context(torch.enable_grad())
                # It has a double backward: https://github.com/pytorch/pytorch/issues/116350
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            autocast = torch.is_autocast_enabled(device) and not in_float32
            stack.enter_context(torch.autocast(device, enabled=autocast))
            on_real: Inputs = (real.to(dtype), sigma, label, condition)
            on_fake: Inputs = (fake.to(dtype), sigma, fake_label if own_label else label, condition)
            # Clones, because a tensor made in inference mode cannot take part in a graph.
            cut = torch.clone if real.is_inference() or fake.is_inference() else torch.detach
            on_real, on_fake = mapped(cut, (on_real, on_fake))
            real_maps, fake_maps, penalties = self._logits_and_slopes(on_real, on_fake, rng)
            games = [
                self.objective.discriminator(r, f)
                for r, f in zip(real_maps, fake_maps, strict=True)
            ]
            real_games, fake_games = zip(*games, strict=True)
            total = reduced(real_games, **weighting, mask=mask)
            total = total + reduced(fake_games, **weighting, mask=mask)
            parts = {"adversarial": total}
            if self.gp > 0:
                penalties["gp"] = self._one_centred(on_real, on_fake, rng)
            for name, penalty in penalties.items():
                parts[name] = reduced(penalty, **weighting)
                weight = self.gp if name == "gp" else getattr(self, name) / 2
                total = total + weight * parts[name]
            if self.lecam is not None and self.lecam.weight > 0:
                parts["lecam"] = self.lecam(
                    real_maps, fake_maps, **weighting, mask=mask, update=training
                )
                total = total + self.lecam.weight * parts["lecam"]
            parts |= _statistics(real_maps, fake_maps)
        if self.check_finite:
            check_finite_samples(total, real=real, fake=fake)
        if not training:
            total = total.detach()
        elif processes() > 1:
            # Distributed training waits for parameters that an absent label leaves out, too.
            entries = [p.flatten()[0] for p in self.parameters() if p.requires_grad]
            total = total + 0 * sum(entries)
        return {"total": total, **{name: part.detach() for name, part in parts.items()}}

    def generator_loss(
        self,
        *,
        fake: Tensor,
        real: Tensor | None = None,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        condition: Any = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The scalar loss to add to a model that produced `fake` with gradients attached.

        It is `adversarial` of `generator_losses`. Objectives that are not relativistic need no
        `real` here, and it does not go through the discriminator.
        """
        return self.generator_losses(
            fake=fake,
            real=real if self.objective.relativistic else None,
            sigma=sigma,
            label=label,
            condition=condition,
            sample_weight=sample_weight,
            mask=mask,
        )["adversarial"]

    def generator_losses(
        self,
        *,
        fake: Tensor,
        real: Tensor | None = None,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        condition: Any = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """All that the discriminator lends to the model that produced `fake`, in one call of it.

        Args:
            fake: `[b ...]`, with gradients attached.
            real: `[b ...]`, needed by relativistic objectives and by features; goes through the
                discriminator stacked with `fake`, and gets no gradient.
            sigma, label, condition, sample_weight, mask: as in `forward`; features have no mask.

        Returns:
            Unweighted scalars: `adversarial`, and `feature_matching` if the discriminator answers
            with features and there is `real`; asked for without, it is a `ValueError`.

        Raises:
            ValueError: batches or answers that cannot be used; a `fake` without gradient, where
                gradients are on.
        """
        shared = {"sigma": sigma, "label": label, "condition": condition}
        self._check(real, fake, **shared, sample_weight=sample_weight, mask=mask)
        if torch.is_grad_enabled() and not fake.requires_grad:
            raise ValueError(
                "fake carries no gradient, so this loss would train nothing: pass the model's "
                "output itself, not detached, or evaluate under torch.no_grad()"
            )
        batch: Inputs = (fake, sigma, label, condition)
        if real is not None:
            batch = stacked(
                mapped(torch.detach, (real.to(fake.dtype), sigma, label, condition)), batch
            )
        with frozen(self):
            maps, features = self._answer(batch)
        first = 0 if real is None else len(real)
        training = torch.is_grad_enabled()
        weighting = {"several": self.several, "sample_weight": sample_weight, "shared": training}
        games = [
            self.objective.generator(logits[first:], logits[:first] if first else None)
            for logits in maps
        ]
        losses = Lent(adversarial=reduced(games, **weighting, mask=mask))
        if features and first:
            losses["feature_matching"] = feature_matching(
                [[layer[first:] for layer in layers] for layers in features],
                [[layer[:first] for layer in layers] for layers in features],
                normalised=self.normalised_features,
                **weighting,
            )
        if training and not losses["adversarial"].requires_grad:
            raise ValueError(
                "the discriminator cuts the gradient (torch.no_grad or detach in its forward), so "
                "this loss would train nothing: freeze its weights by requires_grad_(False) instead"
            )
        if self.check_finite:
            check_finite_samples(losses["adversarial"], real=real, fake=fake)
        return losses

    def _check(self, real: Tensor | None, fake: Tensor, **shared: Any) -> None:
        """Refuse, by `ValueError`, what does not fit together."""
        if shared["condition"] is not None and not takes(self.discriminator, 4):
            raise ValueError(
                f"got a condition, and {type(self.discriminator).__name__}.forward does not take "
                "(x, sigma, label, condition): give it a fourth argument"
            )
        mask = shared.get("mask")
        if mask is not None and fake.ndim > 2 and mask.ndim != fake.ndim - 1:
            raise ValueError(
                f"a mask is of the samples' places, {[len(fake), *fake.shape[2:]]} for samples "
                f"{list(fake.shape)}, got {list(mask.shape)}"
            )
        if self.lecam is not None:
            check_weights(lecam=self.lecam.weight)
        paired = ["a relativistic objective"] if self.objective.relativistic else []
        check_batches(real, fake, shared, paired + ["gp"] * (self.gp > 0))

    def _logits_and_slopes(
        self, real: Inputs, fake: Inputs, rng: torch.Generator | None
    ) -> tuple[Maps, Maps, dict[str, Maps]]:
        """The logits of both sides, and the squared slopes `[b]` of each that has a penalty."""
        sides = {"r1": real, "r2": fake}
        penalised = [name for name in sides if getattr(self, name) > 0]
        first = len(real[0])
        if len(penalised) == 1 and self.finite_difference is None:
            (name,) = penalised
            logits, slopes = self._with_slopes(sides[name])
            other = self._answer(fake if name == "r1" else real)[0]
            real_maps, fake_maps = (logits, other) if name == "r1" else (other, logits)
            return real_maps, fake_maps, {name: slopes}
        both = stacked(real, fake)
        slopes: Maps = ()
        if not penalised:
            logits = self._answer(both)[0]
        elif self.finite_difference is None:
            logits, slopes = self._with_slopes(both)
        else:
            start = first if penalised == ["r2"] else 0
            stop = first if penalised == ["r1"] else len(both[0])
            logits, slopes = self._finite_differences(both, slice(start, stop), rng)
        # Of the slopes, which are those of one half alone if the other has no penalty.
        ends = {"r1": slice(first), "r2": slice(-len(fake[0]), None)}
        return (
            [each[:first] for each in logits],
            [each[first:] for each in logits],
            {name: [slope[ends[name]] for slope in slopes] for name in penalised},
        )

    @_eagerly
    def _with_slopes(
        self,
        batch: Inputs,
        penalty: Callable[[Tensor, Tensor], Tensor] = squared_gradient_norm,
    ) -> tuple[Maps, Maps]:
        """Logits, and the penalty `[b]` of each with respect to the samples."""
        x = batch[0].requires_grad_(True)
        with torch.compiler.set_stance("force_eager"):
            logits, _ = self._answer((x, *batch[1:]))
            return logits, [penalty(each, x) for each in logits]

    def _finite_differences(
        self, batch: Inputs, rows: slice, rng: torch.Generator | None
    ) -> tuple[Maps, Maps]:
        """Logits, and the estimated squared slopes `[b]` of some rows, in one call."""
        check_finite_difference(self.finite_difference, augmented=self.augment is not None)
        step = self.finite_difference or 0.0
        x, *others = mapped(lambda each: each[rows], batch)
        noise = torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
        before = _random_state(x.device)
        maps, _ = self._answer(stacked(batch, (x + step * noise, *others)))
        after = _random_state(x.device)
        if before is not None and after is not None and not torch.equal(before, after):
            raise ValueError(
                "finite differences compare one discriminator at two close points, and this one "
                "draws random numbers (dropout?) that differ between them: switch those off, or "
                "leave out finite_difference"
            )
        logits, moved = zip(*(each.split([len(batch[0]), len(x)]) for each in maps), strict=True)
        slopes = [squared_slope(a[rows], b, step) for a, b in zip(logits, moved, strict=True)]
        return logits, slopes

    def _one_centred(self, real: Inputs, fake: Inputs, rng: torch.Generator | None) -> Maps:
        """GP `[b]` of each discriminator."""
        x = real[0].detach()
        mix = torch.rand(len(x), generator=rng, device=x.device, dtype=x.dtype)
        between = interpolates(x, fake[0].detach(), mix)
        return self._with_slopes((between, *real[1:]), one_centred)[1]

    def _answer(self, batch: Inputs) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Logits and features, see `read_answer`; sigma is 0 if not given."""
        x, sigma, label, condition = batch
        if any(norm.training for norm in self._frozen_norms):
            check_discriminator(self.discriminator)
        x = x if self.augment is None else self.augment(x)
        sigma = x.new_zeros(len(x)) if sigma is None else sigma
        inputs = (x, sigma, label) if condition is None else (x, sigma, label, condition)
        weights = [p.dtype for p in self.discriminator.parameters() if p.is_floating_point()]
        if weights and not {x.dtype, sigma.dtype} <= set(weights):
            inputs = mapped(lambda t: t.to(weights[0]) if t.is_floating_point() else t, inputs)
        network = self._compiled[0] if self._compiled else self.discriminator
        return read_answer(network(*inputs), len(x))


def _random_state(device: torch.device) -> Tensor | None:
    """The state of a device's random numbers; `None` where it cannot be read."""
    if torch.compiler.is_compiling() or device.type not in ("cpu", "cuda"):
        return None
    return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)


def _statistics(real: Maps, fake: Maps) -> dict[str, Tensor]:
    """Mean logits of either side, and the mean sign of their differences."""
    numbers = []
    for r, f in zip(real, fake, strict=True):
        if len(r) == len(f):
            difference = r - f
        else:  # the smaller batch is repeated
            rows = torch.arange(max(len(r), len(f)), device=r.device)
            difference = r[rows % len(r)] - f[rows % len(f)]
        numbers.append(torch.stack([r.mean(), f.mean(), difference.sign().mean()]))
    means = torch.stack(numbers).mean(0).unbind()
    return dict(zip(("logit_real", "logit_fake", "sign_accuracy"), means, strict=True))
