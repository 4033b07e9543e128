"""Discriminators on the features of another network: a frozen one, or a denoiser's encoder."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self, cast

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, reduce
from torch import Tensor, nn

from hybridgen.errors import InputError, quoted
from hybridgen.networks import conditioning
from hybridgen.networks.blocks import GAIN, activation_named, convolution, initialised, normalised
from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser, raw_answer
from hybridgen.networks.patch import joined
from hybridgen.networks.settings import Activation
from hybridgen.protocols import Answer, Logits

_DENOISERS: dict[str, type[Any]] = {kind.__name__: kind for kind in (ImageDenoiser, PointDenoiser)}


class FeatureDiscriminator(ModelMixin, ConfigMixin):
    """`(x [b ...], sigma [b], label [b] or None) -> logits [b 1 ...]`: heads on a frozen network.

    A head at each layer of the network is trained, two linear maps at every place with an
    activation between, as in projected GANs (Sauer et al. 2021, arXiv:2111.01007) without their
    random mixing. Gradients reach x through the network, which is no submodule of this one: it is
    moved with it, but neither trained, nor put into training mode (batch normalisation stays as it
    was trained), nor saved. Give it again when the heads are loaded:
    `FeatureDiscriminator.from_pretrained(folder, network=network)`.

    Args:
        network: any module; its parameters stop requiring gradients and it goes into eval mode. It
            is called with what it was trained on, so a network of photographs takes their mean and
            deviation off itself.
        channels: of the features at each layer.
        layers: names of its modules, whose first output in a call is taken, of a tuple its first
            entry; if empty, the features are what the network returns, a tensor or several.
        tokens: whether features are `[b n c]`, as a transformer's, and not `[b c ...]`.
        conditional: whether the network is called `(x, sigma, label)`, as a denoiser is, whose
            features serve adversarial distillation (Sauer et al. 2024, arXiv:2403.12015).
        width: hidden units of a head.
        classes: number of labels that the heads know; 0 for none.
        noise_conditional: whether the heads look at `sigma`; a network that does not, is called
            with input of unit variance then.
        activation: `leaky_relu` or, for a loss on the discriminator's gradient, `silu`.
        features: whether it answers `Answer(logits, features)`, with the network's features.

    Raises:
        InputError: a layer that the network does not have, no or odd channels.
    """

    network: nn.Module

    def __init__(
        self,
        *,
        network: nn.Module,
        channels: Sequence[int],
        layers: Sequence[str] = (),
        tokens: bool = False,
        conditional: bool = False,
        width: int = 64,
        classes: int = 0,
        noise_conditional: bool = False,
        activation: Activation = "leaky_relu",
        features: bool = False,
    ) -> None:
        super().__init__()
        self.register_to_config(  # all but the network
            channels=tuple(channels),
            layers=tuple(layers),
            tokens=tokens,
            conditional=conditional,
            width=width,
            classes=classes,
            noise_conditional=noise_conditional,
            activation=activation,
            features=features,
        )
        conditioning.require_positive(width=width, channels=min(channels, default=0))
        conditioning.require_classes(classes)
        names = {name for name, _ in network.named_modules()}
        if missing := [name for name in layers if name not in names]:
            raise InputError(
                f"the network has no layer {quoted(missing[0])}: take names of its named_modules()"
            )
        if layers and len(layers) != len(channels):
            raise InputError(
                f"got {len(layers)} layers and channels of {len(channels)}: give one number a layer"
            )
        # Past `__setattr__`, which would make it a submodule: trained, saved, set to train mode.
        object.__setattr__(self, "network", network.eval().requires_grad_(False))
        self.hidden = nn.ModuleList(
            normalised(initialised(convolution(1)(c, width, 1), GAIN), "spectral") for c in channels
        )
        self.heads = nn.ModuleList(
            conditioning.MapHead(
                normalised(initialised(convolution(1)(width, 1 + classes, 1)), "spectral"),
                classes=classes,
            )
            for _ in channels
        )
        self.activate = activation_named(activation)
        sizes = [width] * len(channels)
        self.noise = conditioning.NoiseConditioning(sizes) if noise_conditional else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(
        self, x: Tensor, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> Logits | Answer:
        settings = self.config
        scaled, biases = (x, None) if self.noise is None else self.noise(x, sigma)
        features = self._collect(*((x, sigma, label) if settings["conditional"] else (scaled,)))
        if settings["conditional"] and settings["classes"] == 0:
            label = None  # which the network was given
        axis = 2 if settings["tokens"] else 1
        channels = [feature.shape[axis] for feature in features]
        if channels != list(settings["channels"]):
            raise ValueError(
                f"the network's features have channels {channels}, expected "
                f"{list(settings['channels'])}: build this discriminator with channels={channels}"
            )
        answers = []
        for i, feature in enumerate(features):
            places = rearrange(feature.movedim(axis, 1), "b c ... -> b c (...)")
            h = self.hidden[i](places)
            if biases is not None:
                h = h + rearrange(biases[i], "b c -> b c 1")
            logits = self.heads[i](self.activate(h), label)
            shape = feature.shape[1:2] if settings["tokens"] else feature.shape[2:]
            answers.append(Answer(logits.reshape(len(x), 1, *shape), [feature]))
        return joined(answers, features=settings["features"])

    def _collect(self, *inputs: Tensor | None) -> list[Tensor]:
        """The features of each layer, or all that the network returns."""
        names = self.config["layers"]
        outputs: dict[str, Tensor] = {}

        def keep(name: str, module: nn.Module, args: Any, output: Any) -> None:
            outputs.setdefault(name, output[0] if isinstance(output, tuple) else output)
            if len(outputs) == len(names):
                raise _Complete  # the layers above are not needed

        modules = [self.network.get_submodule(name) for name in names]
        hooks = [
            module.register_forward_hook(partial(keep, name))
            for name, module in zip(names, modules, strict=True)
        ]
        try:
            returned = self.network(*inputs)
        except _Complete:
            return [outputs[name] for name in names]
        finally:
            for hook in hooks:
                hook.remove()
        if names:
            idle = [name for name in names if name not in outputs]
            raise ValueError(
                f"the network did not use its layer {quoted(idle[0])}: leave it out of layers"
            )
        features = [returned] if isinstance(returned, Tensor) else returned
        if not isinstance(features, list | tuple):
            raise ValueError(
                f"the network returned {type(returned).__name__}, expected a tensor or several: "
                "name its layers"
            )
        return list(features)


class _Complete(Exception):
    """All features are there."""


class EncoderDiscriminator(ModelMixin, ConfigMixin):
    """`(x [b ...], sigma [b], label [b] or None) -> logits [b]` on a denoiser's encoder, trained.

    The way down and the middle block of an `ImageDenoiser`'s U-Net, averaged over the picture, or
    the hidden layers of a `PointDenoiser`, and a linear head. It sees x as the denoiser does, with
    its preconditioning, noise levels and labels; no label given means "none". Source: Yin et al.
    2024 (DMD2), arXiv:2405.14867, section 4.3, and for diffusion models that are trained against
    one another, Lin et al. 2025, arXiv:2501.08316, whose R1 by finite differences
    (`AdversarialLoss(finite_difference=...)`) spares such large networks a double backward.

    A new one has new weights; `from_denoiser` copies those of a trained denoiser.

    Args:
        kind: of denoiser, `ImageDenoiser` or `PointDenoiser`.
        settings: its arguments.

    Raises:
        InputError: no denoiser has this name, or none these settings.
    """

    @register_to_config
    def __init__(self, *, kind: str, settings: dict[str, Any]) -> None:
        super().__init__()
        if kind not in _DENOISERS:
            raise InputError(f"no denoiser {quoted(kind)}; there are {', '.join(_DENOISERS)}")
        self.encoder = _DENOISERS[kind](**settings)
        self.shape = self.encoder.shape
        self.head = conditioning.ProjectionHead(features=self.encoder.keep_encoder(), classes=0)

    @classmethod
    def from_denoiser(cls, denoiser: ImageDenoiser | PointDenoiser) -> Self:
        """One that starts with a copy of the denoiser's weights, in float32, and a new head.

        Raises:
            InputError: it is not a denoiser of this package.
        """
        if not isinstance(denoiser, tuple(_DENOISERS.values())):
            raise InputError(
                f"got a {type(denoiser).__name__}, expected {' or '.join(_DENOISERS)}: others take "
                "heads on their layers, hybridgen.FeatureDiscriminator(conditional=True)"
            )
        settings = {k: v for k, v in denoiser.config.items() if not k.startswith("_")}
        if "dropout" in settings:
            settings["dropout"] = 0.0  # a logit, and its slope, are no random numbers
        discriminator = cls(kind=type(denoiser).__name__, settings=settings)
        weights = discriminator.encoder.state_dict()
        for name, value in denoiser.state_dict().items():
            if name in weights and "conv_norm_out" not in name:  # which is of the way up
                weights[name].copy_(value)
        return cast(Any, discriminator).to(denoiser.device)

    def forward(
        self, x: Tensor, sigma: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        _, h = raw_answer(self.encoder, x, conditioning.require_sigma(sigma, x), label)
        return self.head(h if h.ndim == 2 else reduce(h, "b c h w -> b c", "mean"), None)
