"""Train a guide on a finished model's samples: `accelerate launch experiments/critic.py`."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from tqdm import tqdm

from hybridgen.config import command
from hybridgen.data.augment import Augment, AugmentSettings
from hybridgen.data.load import DataSettings, load_data
from hybridgen.data.resident import set_apart, shuffled
from hybridgen.data.source import Batch, Source
from hybridgen.errors import InputError, RunError
from hybridgen.evaluation.curves import curves
from hybridgen.evaluation.guidance_effect import GuidanceEffect
from hybridgen.evaluation.guide_material import (
    data_of,
    drawn_once,
    exam_of,
    fingerprint,
    refuse_another_model,
)
from hybridgen.evaluation.guide_report import examined, on_held_out, tried_scales
from hybridgen.evaluation.watch import table
from hybridgen.networks.adopt import noise_conditional
from hybridgen.networks.build import CriticSettings, build_critic, load_network
from hybridgen.sampling.build import SamplerSettings, build_sampler
from hybridgen.training.critic import GuideTraining, refuse_unfit, train_critic
from hybridgen.training.exam import Exam
from hybridgen.training.files import save_network, write_atomically
from hybridgen.training.guards import refuse_what_cannot_work
from hybridgen.training.launch import Precision, make_accelerator, start_trackers
from hybridgen.training.run import Run
from hybridgen.training.step import Step


@dataclass(frozen=True, kw_only=True)
class Guide:
    """Settings of `experiments/critic.py`.

    Attributes:
        run: the folder of a finished run of `experiments/diffusion.py` or `hybrid.py`.
        critic: the guide's network; `critic.noise_conditional` must be true.
        start: the folder of a run of `experiments/gan.py` whose critic is trained further, instead
            of a new one of `critic`'s settings.
        sampler: how the model is sampled; the guide serves this sampler with these steps.
        augment: random transformations of real and generated samples alike, for cross-entropy.
        fakes: samples to generate; as many as there are training examples, at most 10 000, if not
            given.
        set_apart: share of the training examples, and of the samples, that is not trained on but
            ends the training, blesses the guide and chooses the scale.
        scales: guidance scales to try, 0 among them.
        scale_samples: generated at each scale for each of `scale_draws`.
        scale_draws: draws of noise, the same at every scale.
        final_samples: compared with the examples that the data holds out, unguided and guided.
        seed: of the weights and of every draw.
        out: the guide's folder; `runs/critic/NAME-OBJECTIVE-seedN` if not given.
        log_every: steps between two lines in the log.
        save_every: steps between two checkpoints.
        mixed_precision: `no` or `bf16`; the launcher's choice if not given.
        threads: of torch on the CPU; tiny networks are fastest with one.
        tracking: further trackers beside log.jsonl: tensorboard, trackio, wandb.
    """

    run: str = "runs/diffusion/digits-seed0"
    critic: CriticSettings = field(default_factory=lambda: CriticSettings(noise_conditional=True))
    start: str | None = None
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    training: GuideTraining = field(default_factory=GuideTraining)
    fakes: int | None = None
    set_apart: float = 0.2
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
        if not 0 < self.set_apart < 1:
            raise InputError(f"set_apart must lie between 0 and 1, got {self.set_apart}")
        if self.scale_samples < 2 or self.scale_draws < 2:
            raise InputError(
                "choosing a scale takes at least 2 samples and 2 draws, got "
                f"scale_samples {self.scale_samples} and scale_draws {self.scale_draws}"
            )
        if 0 not in self.scales or len(set(self.scales)) < len(self.scales):
            raise InputError(f"scales must differ and have 0 among them, got {list(self.scales)}")
        if self.augment.adaptive:
            raise InputError("nobody plays against a guide: set augment.strength, not adaptive")


def main(settings: Guide) -> None:
    source = load_data(DataSettings(**data_of(Path(settings.run))))
    folder = settings.out or Path(
        "runs", "critic", f"{source.name}-{settings.training.objective}-seed{settings.seed}"
    )
    accelerator = make_accelerator(
        folder,
        seed=settings.seed,
        mixed_precision=settings.mixed_precision,
        threads=settings.threads,
        tracking=settings.tracking,
    )
    denoiser: Any = load_network(Path(settings.run, "denoiser"))
    denoiser = denoiser.to(accelerator.device).requires_grad_(False)
    if settings.start is not None:
        critic = noise_conditional(load_network(Path(settings.start, "critic")))
    else:
        critic = build_critic(settings.critic, source.shape, source.classes)
    augment = Augment(settings.augment) if settings.augment.strength > 0 else None
    opponent = denoiser if settings.training.objective == "score_matching" else None
    refuse_what_cannot_work(
        accelerator, None, settings.training.batch, settings.training.accumulation
    )
    refuse_unfit(critic, settings.training, denoiser, augmented=augment is not None)
    sampler = partial(build_sampler, settings.sampler, shape=source.shape)
    sampler(denoiser)
    real = set_apart(source, settings.set_apart)
    count = settings.fakes or min(source.size or 10_000, 10_000)
    ours = {
        "batch": settings.training.batch,
        "rank": accelerator.process_index,
        "world": accelerator.num_processes,
        "device": accelerator.device,
    }

    def reals(start: int) -> Iterator[Batch]:
        return real.batches(seed=settings.seed, start=start, **ours)

    # Whatever is wrong is said before the folder is made.
    reals(0)
    held = max(4, round(settings.set_apart * count))
    shuffled(torch.empty(max(0, count - held)), seed=0, **ours)
    set_seed(settings.seed, device_specific=True)
    total = settings.training.steps
    model = fingerprint(Path(settings.run))
    facts = {"examples": source.size, "model": model}
    with Run(folder, settings, accelerator, facts=facts) as run:
        if run.result is not None:
            refuse_another_model(folder, model)
            run.say(f"{folder} is finished already; choose another --out to train again")
            if run.leads:
                print(table(run.result))
            return
        start_trackers(accelerator, "hybridgen-critic", run.config)
        effect = GuidanceEffect(real, denoiser, sampler=sampler, seed=settings.seed)
        fake, fake_label = drawn_once(effect, count, folder / "fakes.safetensors", run, model)
        labels = None if fake_label is None else fake_label[held:]

        def fakes(start: int) -> Iterator[Batch]:
            return shuffled(fake[held:], labels, seed=settings.seed + 1, start=start, **ours)

        exam = exam_of(
            real,
            fake[:held],
            None if fake_label is None else fake_label[:held],
            levels=settings.training.noise.quantiles(settings.training.levels),
            denoiser=opponent,
            device=accelerator.device,
            seed=settings.seed,
        )
        steps = train_critic(
            critic,
            reals,
            fakes,
            exam,
            settings.training,
            accelerator,
            denoiser=opponent,
            augment=augment,
            seed=settings.seed,
            resume=run.resume,
        )
        with tqdm(total=total, unit="step", mininterval=0.5, disable=not run.leads) as bar:
            for step in steps:
                number = step.number
                last = step.state["choice"].over(number, total, settings.training.patience)
                bar.update(number - bar.n)
                if last:
                    run.save(step)  # before the guide is tried, which takes a while
                with run.between_steps(step, save=number % settings.save_every == 0):
                    worth = last or number % settings.log_every == 0 or "held_out" in step.losses
                    if worth and step.losses:
                        accelerator.log(step.losses, step=number)
                    if run.leads and last:
                        bar.close()
                        conclude(run, step, exam, effect, source, settings, model)


def conclude(
    run: Run,
    step: Step,
    exam: Exam,
    effect: GuidanceEffect,
    source: Source,
    settings: Guide,
    model: str,
) -> None:
    """Save the guide, examine it, choose its scale, show what it does, and say so."""
    seconds, best, choice = run.seconds, step.state["best"], step.state["choice"]
    save_network(best, run.folder / "critic")
    curves(run.log_file.rows(), run.folder / "curves.png")
    verdict, figures = examined(exam, best, run.folder)
    effect.window = exam.window(best)
    run.say(f"trying guidance scales at noise levels {_spoken(effect.window)}")
    tried, distances = tried_scales(
        effect,
        best,
        run.folder,
        scales=settings.scales,
        samples=settings.scale_samples,
        draws=settings.scale_draws,
    )
    scale = tried.scale if verdict.blessed else 0.0
    low, high = effect.window
    guide = {
        "sampler": settings.sampler.name,
        "steps": settings.sampler.steps,
        "objective": settings.training.objective,
        "scale": scale,
        "window": [low, None if high == math.inf else high],  # JSON has no infinity
        "blessed": verdict.blessed,
        "set_apart": settings.set_apart,
        "model": model,
    }
    write_atomically(run.folder / "guide.json", json.dumps(guide, indent=1) + "\n")
    effect.draw(None, 0.0, run.folder / "samples-unguided.png")
    try:
        effect.draw(best, scale or 1.0, run.folder / "samples-guided.png")
    except RunError as error:  # with scale 0 chosen there is a result all the same
        run.say(f"no picture of guided samples: {error}")
    final = on_held_out(effect, source, best, scale, samples=settings.final_samples)
    run.accelerator.end_training()
    progress = {"steps": step.number, "best_step": choice.step, "seconds": seconds}
    result = {**progress, **figures, "scale": scale, **distances, **final}
    run.finish({**result, "seconds_in_all": run.seconds})
    print(table(result))
    print(f"{verdict.sentence}; scale {scale:g} is chosen")
    print(f"the guide and its pictures are in {run.folder}")


def _spoken(window: tuple[float, float]) -> str:
    low, high = window
    return f"from {low:.3g}" + ("" if high == math.inf else f" to {high:.3g}")


if __name__ == "__main__":
    sys.exit(command(main, Guide, description=__doc__ or ""))
