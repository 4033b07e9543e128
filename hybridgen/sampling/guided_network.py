"""Guidance inside a pipeline of diffusers: its network answers as a guided one would."""

import inspect
import json
import math
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from hybridgen.errors import InputError
from hybridgen.files import Number, read_object, write_atomically
from hybridgen.networks.blocks import eval_mode
from hybridgen.networks.build import CLASSES, check_complete, check_saved, load_network
from hybridgen.sampling.guidance import HIGHEST, Push, attribute_of
from hybridgen.sampling.parametrisation import Parametrisation, parametrisation, saved_scheduler
from hybridgen.sampling.pipeline_network import PipelineNetwork

_COPIES = (2, 3)
"""Of the same noisy samples in one batch: classifier-free guidance's halves, thirds of others."""
_SAVED = "guide.json"
_HOW = ("trained_with", "pure_noise")


class GuidedNetwork(ModelMixin, ConfigMixin):
    """A network of a pipeline in whose answers a discriminator's push is; made by `guide`.

    In everything else it is the network: its configuration, type, methods. The discriminator is
    none of its parts, so that neither `.to(float16)` nor offloading touches it: it follows the
    samples from device to device.

    Args:
        network: as the pipeline calls it.
        push: see `Push`.
        trained: what the network is shown and answers.
        how: by which settings `trained` is found again, for `save_pretrained`.
    """

    def __init__(
        self, network: nn.Module, push: Push, trained: Parametrisation, how: dict[str, Any]
    ) -> None:
        super().__init__()
        self.network, self.push, self._trained, self._how = network, push, trained, how
        self.training = network.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        answer = self.network(*args, **kwargs)
        arguments = {**dict(zip(self._parameters_of_forward, args, strict=False)), **kwargs}
        prediction = answer[0] if isinstance(answer, tuple) else getattr(answer, "sample", answer)
        moved = self._moved(prediction, arguments)  # pyright: ignore[reportCallIssue]
        if isinstance(answer, tuple):
            return (moved, *answer[1:])
        if answer is prediction:
            return moved
        answer.sample = moved
        return answer

    @torch.compiler.disable
    @torch.no_grad()
    def _moved(self, prediction: Tensor, arguments: dict[str, Any]) -> Tensor:
        if self.push.scale == 0:
            return prediction
        names = self._parameters_of_forward
        x, t = arguments[names[0]], arguments.get("timestep", arguments.get(names[1]))
        if any(len(shapes) > 1 for shapes in arguments.get("img_shapes") or ()):
            raise ValueError(
                "this pipeline shows its network images of a condition among the samples, and a "
                "guide would push them too: it cannot be guided"
            )
        label = arguments.get("class_labels")
        channels = prediction.shape[1]
        if self._trained.variance or channels == 2 * x.shape[1]:
            channels //= 2
        if channels > x.shape[1] or x[:, :channels].shape != prediction[:, :channels].shape:
            raise ValueError(
                f"the network answered {list(prediction.shape)} to {list(x.shape)}, of which the "
                "noisy samples cannot be told: this pipeline cannot be guided"
            )
        # Conditions of an image come after the samples (inpainting, depth, upscaling).
        x, label, copies = self._once(x[:, :channels], label)
        # On the CPU: it is known there, and only there, whether the discriminator is asked at all.
        t = torch.as_tensor(t).detach().cpu().double().flatten()
        if len(t) not in (1, len(x), len(x) * copies):
            raise ValueError(f"a guide takes one timestep a sample, got {len(t)} for {len(x)}")
        alpha, s = (level.expand(len(x)) for level in self._trained.level(t[: len(x)]))
        sigma = (s / alpha).clamp_max(HIGHEST)
        push = self._pushed(x, sigma, s, label)
        if push is None:
            return prediction
        change = self._trained.moved(push, alpha, s.clamp_min(1e-12))
        change = change.repeat(copies, *[1] * (change.ndim - 1))
        mean = prediction[:, :channels]
        mean = (mean.to(change) + change).to(mean.dtype)
        return torch.cat([mean, prediction[:, channels:]], dim=1)

    def _pushed(self, x: Tensor, sigma: Tensor, s: Tensor, label: Tensor | None) -> Tensor | None:
        if not bool((self.push.strength(sigma) != 0).any()):
            return None
        precise = torch.promote_types(x.dtype, torch.float32)
        level = sigma.to(x.device, precise)
        ratio = (sigma / s.clamp_min(1e-12)).to(x.device, precise)
        # 1 / alpha below the highest level; above it alpha may be 0.
        exploding = x.to(precise) * ratio.reshape(-1, *[1] * (x.ndim - 1))
        network = self.push.discriminator
        if not isinstance(network, nn.Module):
            return self.push(exploding, level, label)
        weight = next(network.parameters(), x)
        if weight.device != x.device:
            with torch.inference_mode(False):  # else its weights could never have gradients again
                network.to(x.device)
        with eval_mode(network):
            return self.push(exploding, level, label)

    def _once(self, x: Tensor, label: Any) -> tuple[Tensor, Tensor | None, int]:
        """The samples and their labels without copies, and the number of copies.

        A discriminator with labels sees those of the half that has any.
        """
        classes = classes_of(self.push.discriminator)
        label = None if label is None or not classes else torch.as_tensor(label)
        for copies in _COPIES:
            if len(x) % copies:
                continue
            first, *others = x.chunk(copies)
            if not all(torch.equal(first, other) for other in others):
                continue
            if label is None:
                return first, None, copies
            parts = label.expand(len(x)).chunk(copies)
            labelled = [part for part in parts if bool((part < classes).all())]
            if len(labelled) == 1:
                return first, labelled[0].to(x.device), copies
        if label is not None:
            label = label.expand(len(x)).to(x.device)
        if classes and (label is None or bool((label >= classes).any())):
            raise ValueError(
                f"the discriminator knows {classes} classes and this call names none for some "
                "samples: give labels, or take a discriminator without classes"
            )
        return x, label, 1

    @cached_property
    def _parameters_of_forward(self) -> list[str]:
        return list(inspect.signature(uncompiled(self.network).forward).parameters)

    @property
    def config(self) -> Any:
        return self.network.config

    @property
    def dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.network.parameters()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Where it computes: its weights may be elsewhere if it was offloaded before."""
        hooks = (getattr(module, "_hf_hook", None) for module in self.network.modules())
        executed = (getattr(hook, "execution_device", None) for hook in hooks)
        weights = (p.device for p in self.network.parameters())
        device = next((device for device in executed if device is not None), None)
        return torch.device(next(weights, "cpu") if device is None else device)

    def __getattr__(self, name: str) -> Any:
        try:
            return nn.Module.__getattr__(self, name)
        except AttributeError:
            # Hooks of accelerate and the like are its own: they are set and deleted by name.
            if name.startswith("_") or name == "network":
                raise
            return getattr(self.network, name)

    def save_pretrained(
        self,
        save_directory: Any,
        safe_serialization: bool = True,
        variant: str | None = None,
        **kwargs: Any,
    ) -> None:
        """The network as ever, and in a folder `guide` beside its weights all that guides it.

        Raises:
            ValueError: a discriminator or a scale that cannot be saved, a network or a scheduler
                that could not be read back; nothing is written.
        """
        discriminator, scale = self.push.discriminator, self.push.scale
        if not isinstance(discriminator, ModelMixin) or callable(scale):
            what = "scale that is a function" if callable(scale) else type(discriminator).__name__
            raise ValueError(
                f"a {what} cannot be saved: give a number for the scale, and make the "
                "discriminator a ModelMixin and ConfigMixin of diffusers, or unguide(pipe) first"
            )
        network: Any = uncompiled(self.network)
        saved_scheduler(self._how["trained_with"])
        if _network_class(type(network).__name__) is not type(network):
            raise ValueError(
                f"this {type(network).__name__} is none of diffusers', and so could not be read "
                "back: unguide(pipe), and save pipeline and discriminator each by itself"
            )
        options = {"safe_serialization": safe_serialization, "variant": variant, **kwargs}
        network.save_pretrained(save_directory, **options)
        folder = Path(save_directory) / "guide"
        discriminator.save_pretrained(folder / "discriminator")
        low, high = self.push.window
        settings = {
            "discriminator": [type(discriminator).__module__, type(discriminator).__name__],
            "scale": scale,
            "window": [low, None if high == math.inf else high],  # JSON has no infinity
            "clip": self.push.clip,
            **self._how,
        }
        write_atomically(folder / _SAVED, json.dumps(settings, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "GuidedNetwork":
        """What `save_pretrained` wrote, network and guide; no code of the folder is run.

        Raises:
            InputError: settings that are missing, damaged, or name a class that is not known here.
        """
        folder = Path(pretrained_model_name_or_path)
        name = read_object(folder / "config.json", {"_class_name": str})["_class_name"]
        network = _network_class(name)
        if network is None:
            raise InputError(f"{folder} is of a network {name[:60]!r}, which is none of diffusers'")
        discriminator, settings, saved = load_guide_folder(folder / "guide")
        how = {name: saved.get(name) for name in _HOW}
        scheduler = saved_scheduler(how["trained_with"] or {})
        if network is not PipelineNetwork:  # which checks its own
            check_saved(network, folder, kwargs.get("variant"))
        inner = network.from_pretrained(folder, **{**kwargs, "use_safetensors": True})
        check_complete(inner)
        trained = parametrisation(inner, scheduler, how["pure_noise"])
        return cls(inner, Push(discriminator, **settings), trained, how)


def load_guide_folder(folder: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A discriminator, the settings of its push, and all that is saved beside it."""
    saved = read_object(folder / _SAVED, {"scale": Number, "window": list})
    module, name = saved.get("discriminator") or (None, None)
    # Somebody's own class is loaded where it is imported already: nothing is imported for a name.
    kind = getattr(sys.modules.get(str(module)), str(name), None)
    if kind is None or kind.__name__ in CLASSES:
        discriminator: Any = load_network(folder / "discriminator")
    elif isinstance(kind, type) and issubclass(kind, ModelMixin):
        discriminator = kind.from_pretrained(folder / "discriminator", use_safetensors=True)
    else:
        raise InputError(f"{str(name)[:60]!r} in {folder / _SAVED} is no network; nothing is run")
    try:
        low, high = saved["window"]
        window = (float(low), math.inf if high is None else float(high))
        settings = {"scale": saved["scale"], "window": window, "clip": saved.get("clip")}
        Push(discriminator, **settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / _SAVED} is damaged ({error}): save it again") from error
    return discriminator, settings, saved


def _network_class(name: str) -> Any:
    """Of diffusers, or `PipelineNetwork`; `None` of any other name."""
    kind = {"PipelineNetwork": PipelineNetwork}.get(name) or getattr(diffusers, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, ModelMixin) else None


def uncompiled(network: Any) -> Any:
    return getattr(network, "_orig_mod", network)


def classes_of(network: Any) -> int:
    return int(attribute_of(network, "classes") or 0)
