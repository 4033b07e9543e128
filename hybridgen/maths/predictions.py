"""What networks predict: exact translations between a clean estimate and five other spellings.

Every function takes the noisy sample in the scale it is in, `x = alpha x0 + s n`: variance
preserving has `alpha^2 + s^2 = 1`, variance exploding `alpha = 1`, flow matching
`alpha = 1 - s`. Nothing divides by alpha on the way to a prediction, so pure noise (`alpha = 0`)
is a level like any other wherever the prediction says what the clean estimate is.
"""

from typing import Any, Literal, get_args

from torch import Tensor

from hybridgen.maths.noise import like, scalings

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
EdmSign = Literal["epsilon", "v_prediction"]


def from_clean(kind: Prediction, x0: Tensor, x: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
    """The prediction of `kind` that means the clean estimate `x0`.

    With `n = (x - alpha x0) / s`:

    - `epsilon`: `n` (Ho et al. 2020, arXiv:2006.11239, equation 11);
    - `v_prediction`: `(alpha n - s x0) / sqrt(alpha^2 + s^2)`, the root being 1 in the variance
      preserving scale (Salimans & Ho 2022, arXiv:2202.00512, section 4);
    - `sample`: `x0`;
    - `flow`: `n - x0`, the velocity of `(1 - t) x0 + t n` (Lipman et al. 2022, arXiv:2210.02747;
      Liu et al. 2022, arXiv:2209.03003).

    Args:
        kind: what to say it in.
        x0, x: `[b ...]`, the clean estimate and the noisy sample it was made from.
        alpha, s: `[b]`, `s > 0`.

    Raises:
        ValueError: a kind that is not one of these.
    """
    _check(kind, Prediction)
    if kind == "sample":
        return x0
    a, b = like(alpha, x), like(s, x)
    n = (x - a * x0) / b
    if kind == "epsilon":
        return n
    if kind == "flow":
        return n - x0
    return (a * n - b * x0) / (a.square() + b.square()).sqrt()


def to_clean(kind: Prediction, prediction: Tensor, x: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
    """The clean estimate that `prediction` means, the inverse of `from_clean`.

    - `epsilon`: `(x - s n) / alpha`: unknowable at `alpha = 0`, where noise alone says nothing;
    - `v_prediction`: `(alpha x - s r v) / r^2` with `r = sqrt(alpha^2 + s^2)`;
    - `flow`: `(x - s u) / (alpha + s)`.

    Args:
        kind: what `prediction` is.
        prediction, x: `[b ...]`, the network's answer and the noisy sample.
        alpha, s: `[b]`, `s > 0`.

    Raises:
        ValueError: a kind that is not one of these.
    """
    _check(kind, Prediction)
    if kind == "sample":
        return prediction
    a, b = like(alpha, x), like(s, x)
    if kind == "epsilon":
        return (x - b * prediction) / a
    if kind == "flow":
        return (x - b * prediction) / (a + b)
    square = a.square() + b.square()
    return (a * x - b * square.sqrt() * prediction) / square


def edm_from_clean(
    x0: Tensor,
    x: Tensor,
    sigma: Tensor,
    data_std: float,
    sign: EdmSign = "epsilon",
    least: float = 0.0,
) -> Tensor:
    """`F = (x0 - skip x) / (+-out)`: the raw network output behind EDM's preconditioning.

    diffusers' EDM schedulers call it `epsilon` with a positive `out` (Karras et al. 2022,
    arXiv:2206.00364, equation 7) and `v_prediction` with a negative one.

    Args:
        x0, x: `[b ...]`, clean estimate and noisy sample `x0 + sigma n`.
        sigma: `[b]`, positive.
        data_std: `sigma_data`.
        sign: which of the two conventions.
        least: of a consistency model, see `hybridgen.maths.noise.scalings`.
    """
    c = scalings(sigma, data_std, least)
    return (x0 - like(c.skip, x) * x) / like(_signed(c.out, sign), x)


def edm_to_clean(
    raw: Tensor,
    x: Tensor,
    sigma: Tensor,
    data_std: float,
    sign: EdmSign = "epsilon",
    least: float = 0.0,
) -> Tensor:
    """`x0 = skip x +- out F`, the inverse of `edm_from_clean`."""
    c = scalings(sigma, data_std, least)
    return like(c.skip, x) * x + like(_signed(c.out, sign), x) * raw


def _signed(out: Tensor, sign: str) -> Tensor:
    _check(sign, EdmSign, "EDM ")
    return -out if sign == "v_prediction" else out


def _check(kind: str, kinds: Any, maker: str = "") -> None:
    if kind not in get_args(kinds):
        raise ValueError(f"no {maker}prediction {kind!r}; there are {', '.join(get_args(kinds))}")
