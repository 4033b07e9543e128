"""Fine-tune a finished diffusion model by its own likelihood ratio: `accelerate launch
experiments/finetune.py --run runs/diffusion/digits-seed0`.

What it leaves is a run as of `diffusion.py`, to be sampled, guided or fine-tuned once more.
"""

import copy
import math
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hybridgen.cli import command
from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.settings import Measured, MonitoredRunSettings
from hybridgen.sampling.settings import SamplerSettings
from hybridgen.settings import Interval, Samples, check_memory
from hybridgen.training.settings import FinetuneTraining

if TYPE_CHECKING:
    from hybridgen.evaluation.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class Finetune(MonitoredRunSettings):
    """Settings of `experiments/finetune.py`.

    Attributes:
        run: the folder of a finished run of `experiments/diffusion.py`, `hybrid.py` or of this one,
            or a diffusers pipeline by its folder or hub name.
        data: what it is fine-tuned on; a run knows its own, a pipeline needs `data.path`.
        sampler: of a pipeline; a run has its own, which is noted here and cannot be another.
        identity: of the weights that it begins with; a run notes it, and others are refused.
        num_samples: samples of the model to learn from; as many as there are training examples, at
            most 10 000, if not given.
        final_samples: for the evaluations before and after; as many as the data allows if not
            given.
    """

    run: str = "runs/diffusion/digits-seed0"
    identity: str | None = None
    data: DataSettings = field(default_factory=lambda: DataSettings(path=""))
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    training: FinetuneTraining = field(default_factory=FinetuneTraining)
    num_samples: Samples | None = None
    sample_every: Interval = 100
    eval_every: Interval = 100
    eval_samples: Measured = 500
    final_samples: Measured | None = None

    def of_teacher(self, teacher: "Teacher") -> "Finetune":
        """With data and sampler of the model that is fine-tuned; another sampler is refused."""
        sampler = self.sampler if teacher.sampler is None else teacher.sampler
        if self.sampler not in (sampler, SamplerSettings()):
            raise InputError(
                f"{self.run} has its own sampler, with which it is fine-tuned: leave --sampler "
                "out, or name another --run"
            )
        return replace(self, data=teacher.data, sampler=sampler, identity=teacher.fingerprint)


def main(settings: Finetune) -> None:
    # Imported once the arguments are read: these take seconds.
    from hybridgen import load_data, train_finetune
    from hybridgen.data.load import identified
    from hybridgen.data.source import Shard
    from hybridgen.evaluation.fit import finished, fit, monitored
    from hybridgen.evaluation.guide import SampledModel
    from hybridgen.evaluation.guide_data import GuideData
    from hybridgen.evaluation.monitor import Monitor
    from hybridgen.evaluation.teacher import load_teacher
    from hybridgen.sampling.build import build_sampler
    from hybridgen.training.lock import refuse_inside_run
    from hybridgen.training.run import Run
    from hybridgen.training.setup import accelerator_for, start, validate_memory

    training, seed = settings.training, settings.seed
    teacher = load_teacher(settings.run, settings.data)
    settings = settings.of_teacher(teacher)
    source = load_data(settings.data)
    teacher.check(source.shape, source.classes)
    settings = identified(settings, source)
    folder = settings.out or Path("runs", "finetune", f"{source.name}-seed{seed}")
    refuse_inside_run(folder, settings.run)
    accelerator = accelerator_for(folder, settings)
    device = accelerator.device
    denoiser = copy.deepcopy(teacher.network)
    model = SampledModel(
        source=source,
        network=teacher.network.to(device).requires_grad_(False),
        settings=settings.sampler,
        fingerprint=teacher.fingerprint,
        seed=seed,
    )
    rank, world = accelerator.process_index, accelerator.num_processes
    shard = Shard(batch=training.batch, seed=seed, rank=rank, world=world, device=device)
    count = settings.num_samples or min(source.size or 10_000, 10_000)
    check_memory(4 * count * math.prod(source.shape), f"{count} samples", "lower num_samples")
    data = GuideData(source, count=count, part=0.0, shard=shard)
    validate_memory(accelerator, training, denoiser, times=2 * training.levels)
    steps = train_finetune(
        denoiser,
        data.real_batches,
        data.fake_batches,
        training,
        accelerator,
        seed=seed,
        resume=lambda state: run.resume(state),
    )
    with Run(folder, settings, accelerator) as run:
        if finished(run):
            return
        start(run, "hybridgen-finetune", settings)
        data.draw(model, folder / "generated.safetensors", run)
        sampler = partial(build_sampler, settings.sampler, shape=source.shape)
        monitor = Monitor(folder, source, sampler=sampler, seed=seed, accelerator=accelerator)
        parameters = sum(p.numel() for p in denoiser.parameters())
        facts = {"parameters": parameters, "denoiser_calls": model.sampler.cost.denoiser}
        options = {"final_samples": settings.final_samples, "facts": facts, "start": model.network}
        conclude, between = monitored(run, settings, training, monitor, "denoiser", **options)
        show = ("total", "real_ratio", "fake_ratio")
        fit(run, steps, settings, training, conclude, between=between, show=show)


if __name__ == "__main__":
    sys.exit(command(main, Finetune, description=__doc__ or ""))
