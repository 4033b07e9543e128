"""A denoiser as the network of a pipeline of diffusers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from hybridgen.files import read_object
from hybridgen.maths.noise import like
from hybridgen.networks.build import load_network
from hybridgen.protocols import Denoiser
from hybridgen.sampling.guidance import HIGHEST
from hybridgen.sampling.load import INDEX, load_denoiser
from hybridgen.sampling.parametrisation import parametrisation, saved_scheduler


class PipelineNetwork(ModelMixin, ConfigMixin):
    """`(sample [b c h w], timestep, class_labels [b]) -> .sample [b c h w]`: a denoiser that is
    asked, and answers, as `scheduler` has it.

    `ConsistencyModelPipeline(PipelineNetwork(denoiser, scheduler), scheduler)` of diffusers samples
    it, with classes or without, under every scheduler that scales its input and takes a generator.

    Args:
        denoiser: a module, of square images, as `load_network` or `load_denoiser` gives it.
        scheduler: of the pipeline, or of the same settings. Where its levels end above those that
            the denoiser knows (80, or by its `levels`), the highest of these stands for them.

    Raises:
        ValueError: no module, samples that are no square images, or a scheduler that does not tell
            what a network is shown and answers.
    """

    def __init__(self, denoiser: Denoiser, scheduler: Any) -> None:
        super().__init__()
        shape = tuple(getattr(denoiser, "shape", None) or ())
        if len(shape) != 3 or shape[1] != shape[2] or not isinstance(denoiser, nn.Module):
            raise ValueError(
                "a pipeline of diffusers holds a module and samples square images, and this "
                f"{type(denoiser).__name__} is for samples of shape {shape or 'unknown'}: sample "
                "it by Scheduled"
            )
        self.denoiser: Any = denoiser
        self._trained = parametrisation(self, scheduler)
        if self._trained.variance:
            raise ValueError("a denoiser tells no variance: take variance_type='fixed_small'")
        _, highest = getattr(denoiser, "levels", (0.0, HIGHEST))
        self._highest = max(highest, scheduler.config.get("sigma_max") or 0.0)
        self.register_to_config(
            scheduler=json.loads(scheduler.to_json_string()),
            sample_size=shape[1],
            in_channels=shape[0],
            out_channels=shape[0],
            num_class_embeds=getattr(denoiser, "classes", 0) or None,
        )

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        if sample.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(
                f"the pipeline is in {sample.dtype}, in which sums of noise and data have no "
                "digits left: keep it in float32 and call it inside torch.autocast"
            )
        t = torch.as_tensor(timestep).detach().cpu().double().flatten().expand(len(sample))
        alpha, s = self._trained.level(t)
        sigma = (s / alpha).clamp_max(self._highest)
        ratio = sigma / s.clamp_min(1e-12)  # 1 / alpha, which may be 0 above the highest level
        alpha, s, sigma, ratio = (each.to(sample) for each in (alpha, s, sigma, ratio))
        x0 = self.denoiser(like(ratio, sample) * sample, sigma, class_labels)
        answer = self._trained.answer(x0, sample, alpha, s)
        return UNet2DOutput(sample=answer) if return_dict else (answer,)

    def save_pretrained(self, save_directory: Any, **_: Any) -> None:
        """The settings, and beside them the denoiser in a folder of its own; in safetensors.

        Raises:
            ValueError: a denoiser that cannot be saved, or a scheduler that is not diffusers' own.
        """
        save: Callable[[Path], None] | None = getattr(self.denoiser, "save_pretrained", None)
        if save is None:
            raise ValueError(f"a {type(self.denoiser).__name__} cannot be saved: save its parts")
        saved_scheduler(self.config["scheduler"])
        self.save_config(save_directory)
        save(Path(save_directory) / "denoiser")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **_: Any) -> "PipelineNetwork":
        """What `save_pretrained` wrote; no code of the folder is run.

        Raises:
            InputError: settings or weights that are missing, damaged, or of an unknown class.
        """
        folder = Path(pretrained_model_name_or_path)
        scheduler = read_object(folder / "config.json", {"scheduler": dict})["scheduler"]
        place = folder / "denoiser"
        load = load_denoiser if (place / INDEX).is_file() else load_network
        return cls(cast(Any, load)(place), saved_scheduler(scheduler)).eval()
