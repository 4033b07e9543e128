"""Random numbers as a function of what they are for, so that no generator's state has to be kept.

A draw named by (seed, purpose, step) is the same whether training ran through or was resumed, and
on one process or on many.
"""

import hashlib

import torch
from torch import Tensor


def rng_for(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by everything in `key`; equal keys give equal draws on one device type.

    Keys are hashed, so neighbouring seeds and steps share nothing.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big"))


def rng_from(noise: Tensor) -> torch.Generator:
    """A generator, on the noise's device, that is a function of every bit of the noise.

    So the noise alone decides what a sampler that draws more of it makes.
    """
    bits = noise.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    digest = hashlib.blake2b(bits, digest_size=16).hexdigest()
    return rng_for("noise", digest, device=noise.device)
