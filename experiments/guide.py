"""Train a discriminator on a finished model's samples: `accelerate launch experiments/guide.py`.

Of a diffusion model it becomes a guide; of a GAN, or of a diffusion model, it refines.
"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hybridgen.cli import command
from hybridgen.data.settings import AugmentSettings, DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.settings import Scale
from hybridgen.networks.settings import DiscriminatorSettings
from hybridgen.sampling.settings import SamplerSettings
from hybridgen.settings import Positive, Range, Samples, Share, check_memory
from hybridgen.training.settings import GuideTraining, RunSettings

if TYPE_CHECKING:
    from hybridgen.data.source import Source
    from hybridgen.evaluation.guide import SampledModel
    from hybridgen.training.run import Run
    from hybridgen.training.step import Step
    from hybridgen.training.validation import HeldOutValidation


MOST_SAMPLES = 10_000_000
"""That the choice of a scale may take, over all scales and draws."""


@dataclass(frozen=True, kw_only=True)
class GuideExperiment(RunSettings):
    """Settings of `experiments/guide.py`.

    Attributes:
        run: the folder of a finished run of `experiments/diffusion.py`, `hybrid.py` or `gan.py`; or
            a diffusers pipeline by its folder or hub name, with `data.path`.
        data: what samples should be like; a run knows its own, a pipeline needs `data.path`.
        pipeline_steps: of a pipeline, which is sampled as it is, by its own scheduler.
        trained_with: the `scheduler_config.json` of what a pipeline's network was trained with, if
            its own scheduler does not tell that.
        pure_noise: the timestep for pure noise of a network of flow matching, if its class does not
            tell.
        discriminator: its network; `discriminator.noise_conditional` must be true.
        start: the folder of a run of `experiments/gan.py` whose discriminator is trained further,
            instead of a new one of `discriminator`'s settings. It has seen the validation images,
            so its result on them is too kind.
        sampler: how a diffusion model's run is sampled; the guide serves this sampler and steps.
        augment: random transformations of real and generated samples alike, for cross-entropy.
        num_samples: samples to generate; as many as there are training examples, at most 10 000,
            if not given.
        validation_fraction: share of the training examples, and of the samples, that is not
            trained on but ends the training, says whether the guide's gain is significant,
            calibrates its log ratio and chooses the scale.
        scales: guidance scales to try, 0 among them; for diffusion models only.
        scale_samples: generated at each scale for each of `scale_draws`.
        scale_draws: draws of noise, the same at every scale.
        final_samples: compared with the examples that the data holds out, without the
            discriminator and with it: guided, or of a GAN refined.
    """

    run: str = "runs/diffusion/digits-seed0"
    data: DataSettings = field(default_factory=lambda: DataSettings(path=""))
    pipeline_steps: Annotated[int, Range(1, 1_000)] = 50
    trained_with: str | None = None
    pure_noise: Positive | None = None
    discriminator: DiscriminatorSettings = field(
        default_factory=lambda: DiscriminatorSettings(noise_conditional=True)
    )
    start: str | None = None
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    training: GuideTraining = field(default_factory=GuideTraining)
    num_samples: Samples | None = None
    validation_fraction: Share = 0.2
    scales: tuple[Scale, ...] = (0.0, 0.5, 1.0, 2.0)
    scale_samples: Annotated[int, Range(2, 1e6)] = 250
    scale_draws: Annotated[int, Range(2, 1_000)] = 3
    final_samples: Annotated[int, Range(2, 1e6)] = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.discriminator.architecture == "patch":
            raise InputError(
                "architecture patch answers one logit a patch, and a guide one a sample: choose "
                "residual or dcgan for images, mlp for points"
            )
        choosing = self.scale_samples * self.scale_draws * len(self.scales)
        if choosing > MOST_SAMPLES:
            raise InputError(
                f"choosing among {len(self.scales)} scales would take {choosing:.3g} samples, and "
                f"{MOST_SAMPLES:.0e} is the most: lower scale_samples or scale_draws"
            )
        if 0 not in self.scales or len(set(self.scales)) < len(self.scales):
            raise InputError(f"scales must differ and have 0 among them, got {list(self.scales)}")
        self.augment.check_architecture(self.discriminator.architecture)
        if self.augment.adaptive:
            raise InputError("nobody plays against a guide: set augment.strength, not adaptive")


def main(settings: GuideExperiment) -> None:
    # Imported once the arguments are read: these take seconds.
    from hybridgen import Augment, load_guide, train_guide
    from hybridgen.data.images import split_validation
    from hybridgen.data.source import Shard
    from hybridgen.evaluation.fit import finished, fit
    from hybridgen.evaluation.guide_data import GuideData
    from hybridgen.training.lock import refuse_inside, refuse_inside_run
    from hybridgen.training.run import Run
    from hybridgen.training.setup import accelerator_for, start, validate_memory

    training, seed, part = settings.training, settings.seed, settings.validation_fraction
    model, data_settings = model_of(settings)
    source, kind = model.source, "" if model.guidable else "gan-"
    name = f"{kind}{source.name}-{training.objective}-seed{seed}"
    folder = settings.out or Path("runs", "guide", name)
    refuse_inside(folder, vars(data_settings))
    refuse_inside_run(folder, settings.run)
    accelerator = accelerator_for(folder, settings)
    device = accelerator.device
    model.network.to(device)
    model = replace(model, source=split_validation(source, part))
    matched = model.denoiser if training.objective == "score_matching" else None
    rank, world = accelerator.process_index, accelerator.num_processes
    shard = Shard(batch=training.batch, seed=seed, rank=rank, world=world, device=device)
    count = settings.num_samples or min(source.size or 10_000, 10_000)
    check_memory(4 * count * math.prod(source.shape), f"{count} samples", "lower num_samples")
    data = GuideData(model.source, count=count, part=part, shard=shard)
    levels = training.noise.quantiles(training.levels)
    validation = cache(partial(data.validation, levels, matched))
    discriminator = initial_discriminator(settings, source)
    validate_memory(accelerator, training, discriminator)
    steps = train_guide(
        discriminator,
        data.real_batches,
        data.fake_batches,
        validation,
        training,
        accelerator,
        denoiser=model.denoiser,
        augment=Augment(settings.augment) if settings.augment.strength > 0 else None,
        seed=seed,
        resume=lambda state: run.resume(state),
    )
    facts = {"data": source.identity, "model": model.fingerprint}
    with Run(folder, settings, accelerator, facts=facts) as run:
        if run.result is not None:
            load_guide(folder)  # refuses one of an earlier model
        if finished(run):
            return
        if settings.start is not None and source.size is not None:
            run.say(
                f"warning: the discriminator in {settings.start} was trained on all training "
                "images, those for validation included: its result on them will be too kind"
            )
        start(run, "hybridgen-guide", settings)
        data.draw(model, folder / "generated.safetensors", run)
        finish = partial(conclude, run, validation, model, source, settings)
        fit(run, steps, settings, training, finish)


def model_of(settings: GuideExperiment) -> "tuple[SampledModel, DataSettings]":
    """The model that gets a guide, how it is sampled, and its data: of a run, or of a pipeline."""
    from hybridgen import load_data
    from hybridgen.evaluation.guide import SampledModel
    from hybridgen.evaluation.guide_data import pipeline_and_data
    from hybridgen.evaluation.runs import SavedRun
    from hybridgen.evaluation.teacher import data_of, is_pipeline, weights_digest
    from hybridgen.files import read_object
    from hybridgen.sampling.parametrisation import saved_scheduler
    from hybridgen.sampling.pipeline_sampler import PipelineSampler

    name, data = settings.run, settings.data
    if is_pipeline(name) and (data.path or Path(name).is_dir()):
        pipeline, source = pipeline_and_data(name, data)
        trained_with, shape = settings.trained_with, source.shape
        how: Any = {"classes": source.classes, "pure_noise": settings.pure_noise}
        how["trained_with"] = trained_with and saved_scheduler(read_object(Path(trained_with)))
        network: Any = PipelineSampler(pipeline, shape, settings.pipeline_steps, **how)
        digest = weights_digest(network.network, pipeline.scheduler.to_json_string())
        options: Any = {"fingerprint": digest, "seed": settings.seed}
        return SampledModel(source=source, network=network, settings=None, **options), data
    if settings.trained_with or settings.pure_noise:
        raise InputError(f"trained_with and pure_noise are of a pipeline, and {name} is a run")
    run = SavedRun(Path(name))
    generator = run.kind == "gan"  # refuses what is not finished
    if run.kind == "student":
        raise InputError(
            f"{name} holds a student, whose few calls leave a guide nothing to mend: name its "
            "teacher, or a run of experiments/diffusion.py, hybrid.py or gan.py"
        )
    data = data_of(run, data)
    model = SampledModel(
        source=load_data(data),
        network=run.network.requires_grad_(False),
        settings=None if generator else settings.sampler,
        fingerprint=run.fingerprint,
        seed=settings.seed,
    )
    return model, data


def initial_discriminator(settings: GuideExperiment, source: "Source") -> Any:
    """A new discriminator, or that of a GAN of such data, made to know the noise level."""
    from hybridgen.networks.build import add_noise_conditioning, build_discriminator, load_network

    if settings.start is None:
        return build_discriminator(settings.discriminator, source.shape, source.classes)
    discriminator: Any = add_noise_conditioning(load_network(Path(settings.start, "discriminator")))
    if discriminator.shape != source.shape:
        raise InputError(
            f"the discriminator in {settings.start} is for samples of shape "
            f"{discriminator.shape} and the data has {source.shape}: name another --start"
        )
    return discriminator


def conclude(
    run: "Run",
    held_out: Callable[[], "HeldOutValidation"],
    model: "SampledModel",
    source: "Source",
    settings: GuideExperiment,
    step: "Step",
) -> None:
    """Save the guide, validate and calibrate it, try it on its model, and say so; one process."""
    from hybridgen.evaluation.density_ratio import LogRatio, calibrated
    from hybridgen.evaluation.guide import evaluate_guide, guidance_results, refinement_results
    from hybridgen.evaluation.monitor import table
    from hybridgen.evaluation.plots import curves
    from hybridgen.files import write_atomically
    from hybridgen.sampling.guidance import HIGHEST
    from hybridgen.training.checkpoint import save_network

    if not run.leads:
        return
    folder, seconds, best, validation = run.folder, run.seconds, step.state["best"], held_out()
    save_network(best, folder / "discriminator")
    curves(run.log_file.rows(), folder / "curves.png")
    outcome, figures = evaluate_guide(validation, best, folder)
    calibration, calibration_figures = calibrated(best, validation)
    top = settings.training.noise.high
    low, high = window = validation.window(best, top if top < HIGHEST else math.inf)
    model, significant = replace(model, window=window), outcome.significant
    if not model.guidable:
        ratio = LogRatio(discriminator=best, calibration=calibration)
        results = refinement_results(model, ratio, source, folder, samples=settings.final_samples)
    else:
        results = guidance_results(model, best, source, settings, run, significant=significant)
    guide = {
        **model.sampled_by,
        "objective": settings.training.objective,
        "scale": results.get("scale", 0.0),
        "window": [low, None if high == math.inf else high],  # JSON has no infinity
        "significant": significant,
        "validation_fraction": settings.validation_fraction,
        "model": model.fingerprint,
        "log_ratio": asdict(calibration),
    }
    write_atomically(folder / "guide.json", json.dumps(guide, indent=1) + "\n")
    run.accelerator.end_training()
    progress = {"steps": step.number, "best_step": step.state["best_checkpoint"].step}
    result = {**progress, "seconds": seconds, **figures, **calibration_figures, **results}
    run.finish({**result, "seconds_in_all": run.seconds})
    print(table(result))
    scale = "" if not model.guidable else f"; scale {guide['scale']:g} is chosen"
    print(outcome.sentence + scale)
    print(f"the discriminator and its pictures are in {folder}")


if __name__ == "__main__":
    sys.exit(command(main, GuideExperiment, description=__doc__ or ""))
