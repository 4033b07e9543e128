"""Random numbers as a function of what they are for, so that no generator's state has to be kept.

A draw named by (seed, purpose, step) is the same whether training ran through or was resumed, and
on one process or on many.
"""

import hashlib
import math

import torch
from torch import Tensor

BLOCK = 2**20
"""Random numbers of a batch that are drawn at once."""


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


def normal_share(
    rng: torch.Generator, count: int, like: Tensor, *shape: int, rank: int = 0, processes: int = 1
) -> Tensor:
    """One process's share of standard normal numbers `[count *shape]`, of `like`'s type and device;
    what a sample gets does not depend on the number of processes.

    Up to `BLOCK` numbers are drawn whole. More come in blocks of samples, each from a generator of
    its own, and only those are drawn that the share touches: 64 processes with 64 colour images of
    64 pixels each would else all draw 50 million numbers at every step.

    Args:
        rank: of the process; its share is the rows from `count // processes * rank` on.
    """
    options = {"device": like.device, "dtype": like.dtype}
    start, stop = (count // processes * number for number in (rank, rank + 1))
    size = max(1, BLOCK // max(1, math.prod(shape)))
    if count <= size:
        return torch.randn(count, *shape, generator=rng, **options)[start:stop]
    state = hashlib.blake2b(rng.get_state().numpy().tobytes()).hexdigest()
    torch.randn(2, generator=rng, **options)  # the next draw begins in another state
    first, blocks = start // size, []
    for block in range(first, -(-stop // size)):
        generator = rng_for(state, block, device=like.device)
        left = min(size, count - block * size)
        blocks.append(torch.randn(left, *shape, generator=generator, **options))
    return torch.cat(blocks)[start - first * size : stop - first * size]
