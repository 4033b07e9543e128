"""Train a discriminator on a finished model's samples: `accelerate launch experiments/guide.py`.

Of a diffusion model it becomes a guide; of a GAN, or of a diffusion model, it refines.
"""

import json
import math
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from tqdm import tqdm

from hybridgen.cli import command
from hybridgen.data.augment import Augment, AugmentSettings
from hybridgen.data.images import split_validation
from hybridgen.data.load import load_data
from hybridgen.data.source import Source
from hybridgen.errors import InputError
from hybridgen.evaluation.density_ratio import LogRatio, calibrated
from hybridgen.evaluation.guide import (
    SampledModel,
    evaluate_guide,
    guidance_results,
    load_sampled_model,
    refinement_results,
)
from hybridgen.evaluation.guide_data import GuideData, refuse_another_model
from hybridgen.evaluation.monitor import table
from hybridgen.evaluation.plots import curves
from hybridgen.evaluation.runs import SavedRun
from hybridgen.networks.build import (
    DiscriminatorSettings,
    build_discriminator,
    load_network,
    noise_conditional,
)
from hybridgen.sampling.build import SamplerSettings
from hybridgen.training.checkpoint import save_network, write_atomically
from hybridgen.training.guide import GuideTraining, train_guide, validate_guide
from hybridgen.training.run import Run
from hybridgen.training.setup import (
    Precision,
    make_accelerator,
    start_trackers,
    validate_setup,
)
from hybridgen.training.step import Step
from hybridgen.training.validation import HeldOutValidation


@dataclass(frozen=True, kw_only=True)
class GuideExperiment:
    """Settings of `experiments/guide.py`.

    Attributes:
        run: the folder of a finished run of `experiments/diffusion.py`, `hybrid.py` or `gan.py`.
        discriminator: its network; `discriminator.noise_conditional` must be true.
        start: the folder of a run of `experiments/gan.py` whose discriminator is trained further,
            instead of a new one of `discriminator`'s settings. It has seen the images set apart
            here, so the verdict on it is too kind.
        sampler: how a diffusion model is sampled; the guide serves this sampler with these steps.
        augment: random transformations of real and generated samples alike, for cross-entropy.
        num_samples: samples to generate; as many as there are training examples, at most 10 000,
            if not given.
        validation_fraction: share of the training examples, and of the samples, that is not
            trained on but ends the training, blesses the guide, calibrates its log ratio and
            chooses the scale.
        scales: guidance scales to try, 0 among them; for diffusion models only.
        scale_samples: generated at each scale for each of `scale_draws`.
        scale_draws: draws of noise, the same at every scale.
        final_samples: compared with the examples that the data holds out, without the
            discriminator and with it: guided, or of a GAN refined.
        seed: of the weights and of every draw.
        out: the guide's folder; `runs/guide/NAME-OBJECTIVE-seedN` if not given, and
            `runs/guide/gan-NAME-OBJECTIVE-seedN` for a GAN.
        log_every: steps between two lines in the log.
        save_every: steps between two checkpoints.
        mixed_precision: `no` or `bf16`; the launcher's choice if not given.
        threads: of torch on the CPU; tiny networks are fastest with one.
        tracking: further trackers beside log.jsonl: tensorboard, trackio, wandb.
    """

    run: str = "runs/diffusion/digits-seed0"
    discriminator: DiscriminatorSettings = field(
        default_factory=lambda: DiscriminatorSettings(noise_conditional=True)
    )
    start: str | None = None
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    training: GuideTraining = field(default_factory=GuideTraining)
    num_samples: int | None = None
    validation_fraction: float = 0.2
    scales: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    scale_samples: int = 250
    scale_draws: int = 3
    final_samples: int = 500
    seed: int = 0
    out: Path | None = None
    log_every: int = 10
    save_every: int = 200
    mixed_precision: Precision | None = None
    threads: int | None = None
    tracking: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.validation_fraction < 1:
            raise InputError(
                f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}"
            )
        if self.scale_samples < 2 or self.scale_draws < 2:
            raise InputError(
                "choosing a scale takes at least 2 samples and 2 draws, got "
                f"scale_samples {self.scale_samples} and scale_draws {self.scale_draws}"
            )
        if 0 not in self.scales or len(set(self.scales)) < len(self.scales):
            raise InputError(f"scales must differ and have 0 among them, got {list(self.scales)}")
        if self.augment.adaptive:
            raise InputError("nobody plays against a guide: set augment.strength, not adaptive")


def main(settings: GuideExperiment) -> None:
    model_run = SavedRun(Path(settings.run))
    kind = "gan-" if model_run.kind == "gan" else ""
    source = load_data(model_run.data)
    folder = settings.out or Path(
        "runs",
        "discriminator",
        f"{kind}{source.name}-{settings.training.objective}-seed{settings.seed}",
    )
    accelerator = make_accelerator(
        folder,
        seed=settings.seed,
        mixed_precision=settings.mixed_precision,
        threads=settings.threads,
        tracking=settings.tracking,
    )
    sampled_model = load_sampled_model(
        model_run,
        settings.sampler,
        split_validation(source, settings.validation_fraction),
        device=accelerator.device,
        seed=settings.seed,
    )
    if settings.start is not None:
        discriminator: Any = noise_conditional(load_network(Path(settings.start, "discriminator")))
        if discriminator.shape != source.shape:
            raise InputError(
                f"the discriminator in {settings.start} is for samples of shape "
                f"{discriminator.shape} and the "
                f"data has {source.shape}: name another --start"
            )
    else:
        discriminator = build_discriminator(settings.discriminator, source.shape, source.classes)
    augment = Augment(settings.augment) if settings.augment.strength > 0 else None
    validate_setup(accelerator, None, settings.training.batch, settings.training.accumulation)
    validate_guide(
        discriminator, settings.training, sampled_model.denoiser, augmented=augment is not None
    )
    matched = sampled_model.denoiser if settings.training.objective == "score_matching" else None
    guide_data = GuideData(
        sampled_model.source,
        count=settings.num_samples or min(source.size or 10_000, 10_000),
        part=settings.validation_fraction,
        batch=settings.training.batch,
        seed=settings.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        device=accelerator.device,
    )
    set_seed(settings.seed, device_specific=True)
    total, model = settings.training.steps, sampled_model.fingerprint
    facts = {"examples": source.size, "model": model}
    with Run(folder, settings, accelerator, facts=facts) as run:
        if run.result is not None:
            refuse_another_model(folder, model)
            run.say(f"{folder} is finished already; choose another --out to train again")
            if run.leads:
                print(table(run.result))
            return
        if settings.start is not None and source.size is not None:
            run.say(
                f"warning: the discriminator in {settings.start} was trained on all training "
                f"images, "
                "those set apart to judge it included: the verdict on it will be too kind"
            )
        start_trackers(accelerator, "hybridgen-discriminator", run.config)
        guide_data.draw(sampled_model, folder / "generated.safetensors", run)
        validation = guide_data.validation(
            settings.training.noise.quantiles(settings.training.levels), matched
        )
        steps = train_guide(
            discriminator,
            guide_data.real_batches,
            guide_data.fake_batches,
            validation,
            settings.training,
            accelerator,
            denoiser=matched,
            augment=augment,
            seed=settings.seed,
            resume=run.resume,
        )
        with tqdm(total=total, unit="step", mininterval=0.5, disable=not run.leads) as bar:
            for step in steps:
                number = step.number
                last = step.state["best_checkpoint"].stop(number, total, settings.training.patience)
                bar.update(number - bar.n)
                if last:
                    run.save(step)  # before the guide is tried, which takes a while
                with run.between_steps(step, save=number % settings.save_every == 0):
                    worth = last or number % settings.log_every == 0 or "held_out" in step.losses
                    if worth and step.losses:
                        accelerator.log(step.losses, step=number)
                    if run.leads and last:
                        bar.close()
                        conclude(run, step, validation, source, settings, sampled_model)


def conclude(
    run: Run,
    step: Step,
    validation: HeldOutValidation,
    source: Source,
    settings: GuideExperiment,
    sampled_model: SampledModel,
) -> None:
    """Save the discriminator, examine and calibrate it, show what it does, and say so."""
    seconds, best, best_checkpoint = run.seconds, step.state["best"], step.state["best_checkpoint"]
    save_network(best, run.folder / "discriminator")
    curves(run.log_file.rows(), run.folder / "curves.png")
    outcome, figures = evaluate_guide(validation, best, run.folder)
    calibration, calibrating = calibrated(best, validation)
    low, high = window = validation.window(best)
    sampled_model = replace(sampled_model, window=window)
    guide = {
        "sampler": sampled_model.sampler_name,
        "steps": sampled_model.sampler_steps,
        "objective": settings.training.objective,
        "scale": 0.0,
        "window": [low, None if high == math.inf else high],  # JSON has no infinity
        "significant": outcome.significant,
        "validation_fraction": settings.validation_fraction,
        "model": sampled_model.fingerprint,
        "log_ratio": asdict(calibration),
    }
    if sampled_model.denoiser is None:
        ratio, samples = (
            LogRatio(discriminator=best, calibration=calibration),
            settings.final_samples,
        )
        found = refinement_results(sampled_model, ratio, source, run.folder, samples=samples)
    else:
        found = guidance_results(
            sampled_model, best, source, settings, run, significant=outcome.significant
        )
        guide["scale"] = found["scale"]
    write_atomically(run.folder / "guide.json", json.dumps(guide, indent=1) + "\n")
    run.accelerator.end_training()
    progress = {"steps": step.number, "best_step": best_checkpoint.step, "seconds": seconds}
    result = {**progress, **figures, **calibrating, **found}
    run.finish({**result, "seconds_in_all": run.seconds})
    print(table(result))
    chosen = "" if sampled_model.denoiser is None else f"; scale {guide['scale']:g} is chosen"
    print(outcome.sentence + chosen)
    print(f"the discriminator and its pictures are in {run.folder}")


if __name__ == "__main__":
    sys.exit(command(main, GuideExperiment, description=__doc__ or ""))
