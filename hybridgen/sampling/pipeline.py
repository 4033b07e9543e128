"""A guided diffusion model as one diffusers pipeline: saved, loaded and shared as a whole."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import diffusers
import huggingface_hub
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from huggingface_hub import ModelCard, ModelCardData
from torch import Tensor, nn

from hybridgen.errors import InputError, escaped, reason
from hybridgen.files import write_atomically
from hybridgen.networks.blocks import eval_mode

# diffusers finds the class of a saved network only in modules that have been imported.
from hybridgen.networks.build import check_numbers
from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser
from hybridgen.sampling import guidance
from hybridgen.sampling import pipeline_inputs as inputs
from hybridgen.sampling.conversions import SCHEDULERS
from hybridgen.sampling.extrapolation import classifier_free_guidance
from hybridgen.sampling.load import check_component, read_index, saved_kind
from hybridgen.sampling.pretrained import DiffusersDenoiser
from hybridgen.sampling.schedulers import Scheduled

_FILES = ["*.json", "*.safetensors", "*.md"]
_OF_THE_HUB = {"revision", "cache_dir", "token", "local_files_only", "force_download"}
_CARD = Path(__file__).with_name("model_card.md.jinja")
_GENERATED = "card has been automatically generated"


class GuidedDiffusionPipeline(DiffusionPipeline):
    """A denoiser, a scheduler and a discriminator that guides them.

    `from_pretrained(folder_or_hub_name)` takes settings and safetensors from the hub, never code.
    The scheduler is exchanged as in any diffusers pipeline, `pipeline.scheduler =
    DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)`. A plain diffusers U-Net
    goes on being read as the scheduler that it came with says.

    Args:
        unet: a denoiser of this package (any scheduler), or a diffusers U-Net with its scheduler.
        scheduler: any diffusers scheduler that `Scheduled` knows.
        discriminator: the guide, trained on this model's own samples; `None` for no guide.
        trained_for: `{"sampler": "heun", "steps": 18}`: whose errors the guide corrects, so that
            another use warns; or how a student samples.
        window: noise levels `(low, high)` where the guide is used; `high=None` for no bound.
        null_label: the id that means "no class" for a diffusers U-Net that has one.
        trained_with: the config of the scheduler that a diffusers U-Net was trained with;
            `scheduler`'s if not given.

    Raises:
        ValueError: a discriminator that cannot guide this denoiser, or settings without sense.
    """

    _optional_components = ["discriminator"]  # noqa: RUF012

    def __init__(
        self,
        unet: ImageDenoiser | PointDenoiser | UNet2DModel | nn.Module,
        scheduler: SchedulerMixin,
        discriminator: nn.Module | None = None,
        trained_for: dict | None = None,
        window: list | tuple = (guidance.LOWEST, None),
        null_label: int | None = None,
        trained_with: dict | None = None,
    ) -> None:
        super().__init__()
        inputs.check_trained_for(trained_for)
        low, high = window
        if low is None or not 0 <= low < (math.inf if high is None else high):
            raise ValueError(f"a window is (low, high) with 0 <= low < high or None, got {window}")
        high = None if high == math.inf else high  # JSON has no infinity
        self.register_modules(unet=unet, scheduler=scheduler, discriminator=discriminator)
        if trained_with is None and not hasattr(unet, "shape"):
            trained_with = json.loads(cast(Any, scheduler).to_json_string())
        self.register_to_config(
            trained_for=trained_for,
            window=[low, high],
            null_label=null_label,
            trained_with=trained_with,
        )
        if discriminator is not None:
            guidance.check_guide(self.denoiser, discriminator)

    @classmethod
    def of_denoiser(
        cls, denoiser: Any, scheduler: SchedulerMixin, trained_for: dict | None = None
    ) -> "GuidedDiffusionPipeline":
        """The pipeline of a denoiser of this package, or of what `load_denoiser` gave."""
        if not isinstance(denoiser, DiffusersDenoiser):
            return cls(denoiser, scheduler, trained_for=trained_for)
        how = json.loads(denoiser.scheduler.to_json_string())
        options = {"null_label": denoiser.null, "trained_with": how, "trained_for": trained_for}
        return cls(denoiser.network, scheduler, **options)

    @property
    def denoiser(self) -> Any:
        """The unguided model as `(x, sigma, label) -> x0`, whatever it was trained to predict."""
        if hasattr(self.unet, "shape"):
            return self.unet
        settings = dict(self.config["trained_with"])
        kind = settings.get("_class_name")
        if kind not in [scheduler.kind for scheduler in SCHEDULERS.values()]:
            raise ValueError(f"no conversion for a {kind!r}, which this U-Net was trained with")
        check_numbers(settings)
        kind = getattr(diffusers, kind)
        scheduler = kind.from_config({k: v for k, v in settings.items() if not k.startswith("_")})
        network = DiffusersDenoiser(self.unet, scheduler, null=self.config["null_label"])
        if network.shape is None:
            name = type(self.unet).__name__
            raise ValueError(f"a {name} needs in_channels and sample_size in its config")
        return network

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        guidance_scale: guidance.Scale = 1.0,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        class_labels: Tensor | Sequence[int] | int | None = None,
        classifier_free_scale: float | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Sample.

        Args:
            batch_size: samples to make; where `latents` are given, their number counts.
            guidance_scale: 1 corrects as the discriminator says, 0 not at all; a number or a
                function of `sigma [b]`. Without a discriminator it has no effect.
            num_inference_steps: noise levels on the way; those of `trained_for`, or 18, if not
                given.
            generator: of the starting noise and of what a stochastic scheduler draws. The same
                seed gives the same samples.
            class_labels: one for all or one a sample; `None` is unconditional.
            classifier_free_scale: 1 is the conditional model; more exaggerates the class.
            latents: the starting noise, standard normal, `[b *shape]`.
            output_type: `pil`, `np` (`[b h w c]`) or `pt` (`[b c h w]`), images in [0, 1]; points
                `[b d]` come as `np` or `pt` in the data's own units.
            return_dict: whether the samples come as `.images` of an object or in a tuple.

        Raises:
            ValueError: arguments that this model cannot follow.
        """
        guidance.check_scale(guidance_scale)
        usual = (self.config["trained_for"] or {}).get("steps", 18)
        steps: int = usual if num_inference_steps is None else num_inference_steps
        denoiser = self.denoiser
        shape = tuple(denoiser.shape)
        inputs.check_output(output_type, shape)
        weight = next(self.unet.parameters(), torch.empty(0))
        noise = inputs.starting_noise(latents, (batch_size, *shape), generator, weight)
        labels = inputs.labels_of(class_labels, denoiser.classes, noise)
        if classifier_free_scale is not None:
            if labels is None:
                raise ValueError("classifier_free_scale needs class_labels, got None; give both")
            denoiser = classifier_free_guidance(denoiser, classifier_free_scale)
        if self.discriminator is not None and guidance_scale != 0:
            trained_for, (low, high) = self.config["trained_for"], self.config["window"]
            inputs.warn_if_mismatched(trained_for, self.scheduler, steps)
            window = low, math.inf if high is None else high
            guided = guidance.discriminator_guidance
            denoiser = guided(denoiser, self.discriminator, guidance_scale, window=window)
        bar = not getattr(self, "_progress_bar_config", {}).get("disable", False)
        # Levels of EDM, and so those of our denoisers, end at 80; a student's where it began.
        end = max(80.0, self.scheduler.config.get("sigma_max") or 0.0)
        options = {"highest": end if hasattr(self.unet, "shape") else None, "progress": bar}
        sampler = Scheduled(denoiser, self.scheduler, shape, steps, **options)
        with eval_mode(self.unet, self.discriminator):
            samples = sampler(noise, labels, generator=generator)
        images = inputs.present(samples, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """As every pipeline, with a model card beside it, unless a `README.md` is there already.

        Raises:
            ValueError: a component that cannot be saved (diffusers would leave it out).
        """
        for name, component in self.components.items():
            if component is not None and not hasattr(component, "save_pretrained"):
                raise ValueError(
                    f"the {name} is a {type(component).__name__}, which has no save_pretrained: "
                    "derive it from diffusers' ModelMixin and ConfigMixin"
                )
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        self._write_card(folder, folder.resolve().name or "pipeline")

    def card(
        self,
        name: str,
        *,
        data: str | None = None,
        figures: Mapping[str, float] | None = None,
        licence: str | None = None,
    ) -> str:
        """A `README.md` for the hub: metadata in YAML, then how to use the pipeline and its limits.

        What is not known is said to be unknown; nothing is made up.

        Args:
            name: where people load the pipeline from, a hub name or a folder.
            data: what everything was trained on, in a sentence or a name.
            figures: metric name -> value, as measured.
            licence: of the weights, as the hub spells it, such as `apache-2.0`.

        Raises:
            ValueError: an empty name.
        """
        if not name:
            raise ValueError("a card needs a name, got an empty one")
        guide, denoiser = self.discriminator, self.denoiser
        image = len(denoiser.shape) == 3
        card_data = ModelCardData(
            license=licence or "unknown",
            library_name="diffusers",
            tags=["diffusers", "hybridgen", *([] if guide is None else ["discriminator-guidance"])],
            pipeline_tag="unconditional-image-generation" if image else None,
        )
        card = ModelCard.from_template(
            card_data,
            template_path=str(_CARD),
            name=escaped(name.split("/")[-1]),
            quoted=json.dumps(" ".join(name.split())),
            image=image,
            shape=list(denoiser.shape),
            classes=denoiser.classes,
            network=type(self.unet).__name__,
            scheduler=type(self.scheduler).__name__,
            guide=None if guide is None else type(guide).__name__,
            trained_for={k: escaped(str(v)) for k, v in (self.config["trained_for"] or {}).items()},
            data=data and escaped(data),
            figures={escaped(k): v for k, v in (figures or {}).items()},
            licence=licence,
        )
        return f"{card}\n"

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> Any:
        """The parts of another pipeline in this one.

        Raises:
            ValueError: it decodes latents, which this one would leave as they are.
        """
        if decoders := [name for name in ("vae", "vqvae") if getattr(pipeline, name, None)]:
            raise ValueError(
                f"{type(pipeline).__name__} decodes what its network makes by its {decoders[0]}, "
                "which a GuidedDiffusionPipeline does not have: use guide(pipe, discriminator)"
            )
        return super().from_pipe(pipeline, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> Any:
        """As every pipeline, but of networks and schedulers that are known here, or are passed as
        arguments: nothing that a repository names is imported, whatever the arguments say.

        Raises:
            InputError: no such repository, a component of an unknown class, settings and weights
                that do not belong together, weights that are not finite or not safetensors.
        """
        name, loaded = pretrained_model_name_or_path, {**kwargs, "use_safetensors": True}
        for code in ("custom_pipeline", "custom_revision", "trust_remote_code"):
            loaded.pop(code, None)
        folder = Path(name if os.path.isdir(name) else cls.download(str(name), **loaded))
        index = read_index(folder)
        if not isinstance(index.get("_class_name"), str):
            raise InputError(f"{folder} names code of its own as its pipeline; nothing is run")
        for part in ("unet", "scheduler", "discriminator"):
            if part in loaded or index.get(part) in (None, [None, None]):
                continue
            if (kind := saved_kind(index, part)) is None:
                raise InputError(
                    f"the {part} of {folder} is of a class that is not known here: build it "
                    f"yourself and pass it, {part}=..."
                )
            check_component(kind, folder / part, loaded.get("variant"))
        return super().from_pretrained(str(folder), **loaded)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """As every pipeline, but settings and weights only; arguments about code are ignored.

        Raises:
            InputError: no such repository, no network, or a name that is none.
        """
        options = {key: kwargs[key] for key in _OF_THE_HUB & {*kwargs}}
        try:
            return huggingface_hub.snapshot_download(
                pretrained_model_name, allow_patterns=_FILES, **options
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"{pretrained_model_name!r} is no folder here, and cannot be had from the Hugging "
                f"Face hub ({reason(error)}); correct the name, or go online"
            ) from error

    def _upload_folder(
        self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any
    ) -> Any:
        # diffusers writes an empty card over ours just before it uploads.
        self._write_card(Path(working_dir), repo_id)
        return super()._upload_folder(working_dir, repo_id, *args, **kwargs)

    def _write_card(self, folder: Path, name: str) -> None:
        """A `README.md`, unless somebody has written one."""
        path = folder / "README.md"
        if not path.exists() or _GENERATED in path.read_text(encoding="utf-8"):
            write_atomically(path, self.card(name))
