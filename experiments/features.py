"""Train the small classifier whose last layer measures images: `python experiments/features.py`.

`network/` and `result.json` of `hybridgen/metrics/weights/digits` and `.../mnist` come from

    python experiments/features.py --out runs/features/digits
    python experiments/features.py --data.path MNIST_FOLDER --out runs/features/mnist \
        --training.steps 3000 --training.batch 128
"""

import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hybridgen.cli import command
from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError
from hybridgen.settings import Count, Interval, Positive, Range, Samples, Seed, Settings, Weight
from hybridgen.training.settings import RunSettings, Threads

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EVERYTHING = 1_000_000  # more examples than any data set here has


@dataclass(frozen=True, kw_only=True)
class FeatureTraining(Settings):
    """How the classifier is trained.

    Attributes:
        lr: its greatest value; it rises for 30 % of the steps and falls to 0.
        shift, angle, scale: largest augmentation, as a fraction of the side, in degrees, and as a
            relative change of size; light, because features should notice a bad image.
    """

    steps: Count = 1_500
    batch: Samples = 64
    lr: Positive = 3e-3
    weight_decay: Weight = 1e-2
    shift: Annotated[float, Range(0, 1)] = 0.06
    angle: Annotated[float, Range(0, 180)] = 10.0
    scale: Annotated[float, Range(0, 1, "[)")] = 0.1


@dataclass(frozen=True, kw_only=True)
class FeatureExperiment(Settings):
    """Settings of `experiments/features.py`; an interrupted training starts again.

    Attributes:
        data: labelled grey images, 8x8 or 28x28.
        out: the run's folder; `runs/features/DATA-seedN` if not given.
    """

    data: DataSettings = field(default_factory=DataSettings)
    training: FeatureTraining = field(default_factory=FeatureTraining)
    seed: Seed = 0
    out: Path | None = None
    log_every: Interval = 50
    threads: Threads = 1


def jitter(x: "Tensor", config: FeatureTraining, generator: "torch.Generator") -> "Tensor":
    """Move, turn and stretch each image `[b 1 h w]` a little, repeating its border."""
    import torch
    import torch.nn.functional as F

    turn, size, right, down = 2 * torch.rand(4, len(x), generator=generator) - 1
    turn, size = math.radians(config.angle) * turn, 1 + config.scale * size
    cos, sin = size * turn.cos(), size * turn.sin()
    top = torch.stack([cos, -sin, 2 * config.shift * right], dim=1)
    bottom = torch.stack([sin, cos, 2 * config.shift * down], dim=1)
    where = F.affine_grid(torch.stack([top, bottom], dim=1), list(x.shape), align_corners=False)
    return F.grid_sample(x, where, padding_mode="border", align_corners=False)


def main(settings: FeatureExperiment) -> None:
    # Imported once the arguments are read: these take seconds.
    import torch
    import torch.nn.functional as F
    from tqdm import tqdm

    from hybridgen.data.load import identified, load_data
    from hybridgen.data.source import Shard
    from hybridgen.evaluation.fit import finished
    from hybridgen.metrics.features import SHIPPED, LeNet, extract
    from hybridgen.training.checkpoint import save_network
    from hybridgen.training.run import Run
    from hybridgen.training.setup import accelerator_for, start_trackers

    seed, config = settings.seed, settings.training
    source = load_data(replace(settings.data, labels=True))
    settings = identified(settings, source)
    if source.shape not in SHIPPED:
        raise InputError(f"expected one of the image shapes {list(SHIPPED)}, got {source.shape}.")
    folder = settings.out or Path("runs", "features", f"{source.name}-seed{seed}")
    accelerator = accelerator_for(folder, RunSettings(seed=seed, threads=settings.threads))
    batches = source.batches(Shard(batch=config.batch, seed=seed))
    network = LeNet(resolution=source.shape[-1], classes=source.classes)
    run = Run(folder, settings, accelerator)
    if finished(run):
        return
    run.log_file.forget_after(0)
    start_trackers(accelerator, "hybridgen-features", run.config)

    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.steps)
    network.train()
    steps = tqdm(range(1, config.steps + 1), disable=None)
    for step, (x, label) in zip(steps, batches, strict=False):
        if label is None:
            raise InputError("features are learnt from labels, and this data has none.")
        loss = F.cross_entropy(network.logits(network(jitter(x, config, generator))), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % settings.log_every == 0:
            accelerator.log({"loss": loss.item()}, step=step)
    network.eval()

    seconds, figures = run.seconds, {}
    train = source.reference("train", EVERYTHING)
    held_out = source.reference("held_out", EVERYTHING)
    network.standardise_over(train[0])
    save_network(network, folder / "network")
    for name, (x, label) in {"accuracy": held_out, "train_accuracy": train}.items():
        figures[name] = float((extract(network, x)[1] == label).double().mean())
    run.finish({**figures, "seconds": seconds, "steps": config.steps})
    run.say(f"{folder}: {figures['accuracy']:.2%} of the held-out images recognised")


if __name__ == "__main__":
    sys.exit(command(main, FeatureExperiment, description=__doc__ or ""))
