"""Train a pipeline with diffusers and nothing of this package but the digits: its own objective.

`python experiments/diffusers_ddpm.py`, then `python experiments/guide.py --run runs/diffusers/ddpm
--data.path digits`: what a guide does for a model that was made elsewhere.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hybridgen.cli import command
from hybridgen.errors import InputError
from hybridgen.settings import Range, Samples, Seed, Settings


@dataclass(frozen=True, kw_only=True)
class DiffusersDdpm(Settings):
    """Settings of `experiments/diffusers_ddpm.py`: the pipeline's folder, and its training."""

    out: Path = Path("runs/diffusers/ddpm")
    steps: Annotated[int, Range(1, 1e6)] = 1_500
    batch: Samples = 64
    seed: Seed = 0


def main(settings: DiffusersDdpm) -> None:
    """Minimise the error of the predicted noise (Ho et al. 2020, arXiv:2006.11239, equation 14)."""
    # Imported once the arguments are read: these take seconds.
    import torch
    import torch.nn.functional as F
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.training_utils import EMAModel
    from tqdm import tqdm

    from hybridgen import Shard, digits

    steps, batch, folder = settings.steps, settings.batch, settings.out
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty: name a new folder by --out, or remove it")
    torch.manual_seed(settings.seed)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    noising = DDPMScheduler()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    average = EMAModel(unet.parameters(), decay=0.995)
    bar = tqdm(range(steps), unit="step")
    data = digits().batches(Shard(batch=batch, seed=settings.seed))
    for _, (x, _) in zip(bar, data, strict=False):
        noise, t = torch.randn_like(x), torch.randint(1000, (batch,))
        noisy = noising.add_noise(x, noise, t)  # pyright: ignore[reportArgumentType]
        loss = F.mse_loss(unet(noisy, t).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
        average.step(unet.parameters())
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    average.copy_to(unet.parameters())
    DDPMPipeline(unet.eval(), noising).save_pretrained(folder)
    print(f"the pipeline is in {folder}")


if __name__ == "__main__":
    sys.exit(command(main, DiffusersDdpm, description=__doc__ or ""))
