"""Diffusion with a discriminator in its training: `accelerate launch experiments/hybrid.py`.

A door to `experiments/diffusion.py`; without `--config` it takes `configs/hybrid/digits.yaml`.
"""

import sys
from pathlib import Path

from diffusion import Diffusion, main

from hybridgen.config import command

DEFAULT = Path(__file__).parents[1] / "configs" / "hybrid" / "digits.yaml"

if __name__ == "__main__":
    given = sys.argv[1:]
    if not any(word.split("=")[0] == "--config" for word in given):
        given = ["--config", str(DEFAULT), *given]
    sys.exit(command(main, Diffusion, given, description=__doc__ or ""))
