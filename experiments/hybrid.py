"""Diffusion with a discriminator in its training: `accelerate launch experiments/hybrid.py`.

A door to `experiments/diffusion.py`; without `--config` it takes `configs/hybrid/digits.yaml`.
"""

import sys
from pathlib import Path

from diffusion import Diffusion, main

from hybridgen.cli import command
from hybridgen.errors import InputError

DEFAULT = Path(__file__).parents[1] / "configs" / "hybrid" / "digits.yaml"


def hybrid(settings: Diffusion) -> None:
    """Train with a discriminator, or say that none was asked for."""
    if settings.adversarial.source is None:
        raise InputError(
            "no discriminator takes part: set adversarial.source chain, renoised or clean, or use "
            "experiments/diffusion.py"
        )
    main(settings)


if __name__ == "__main__":
    sys.exit(command(hybrid, Diffusion, description=__doc__ or "", default_config=DEFAULT))
