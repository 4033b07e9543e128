"""Comparisons that nobody measured, for tests of what is made of them."""

import io

from PIL import Image

from hybridgen.evaluation.results import Comparison, Row, SamplingCost, TrainingSummary
from hybridgen.metrics.intervals import Estimate
from hybridgen.protocols import Cost


def estimate(value, half=1.0, **levels):
    return Estimate(value=value, low=value - half, high=value + half, **levels)


def row(method, setting="", *, quality=10.0, half=1.0, seconds=1e-3, calls=None, **others):
    """A row with one figure; further ones as `figures`."""
    figures = {"frechet_distance": estimate(quality, half)} | others.pop("figures", {})
    time = others.pop("time", None) or estimate(seconds, 0.01 * seconds)
    return Row(
        method=method,
        setting=setting,
        kind=others.pop("kind", method),
        models=others.pop("models", (method,)),
        figures=figures,
        cost=SamplingCost(calls=calls, flops=2e6, seconds=time, peak_bytes=2**20, batch=64),
        **others,
    )


def gan(**others):
    return row("GAN", **{"quality": 30.0, "seconds": 1e-5, "calls": Cost(generator=1)} | others)


def refined(rounds, **others):
    calls = Cost(generator=rounds + 1, discriminator_forward=rounds + 1)
    words = f"{rounds} rounds"
    return row("GAN, refined", words, **{"calls": calls, "baseline": "GAN"} | others)


def diffusion(calls, **others):
    return row("diffusion", f"{calls} calls", **{"calls": Cost(denoiser=calls)} | others)


def guided(calls, scale=1, **others):
    cost = Cost(denoiser=calls, discriminator_forward=calls, discriminator_backward=calls)
    words = f"{calls} calls, scale {scale}"
    return row("guided", words, **{"calls": cost, "baseline": "diffusion"} | others)


def hybrid(calls, **others):
    cost = Cost(denoiser=calls)
    return row("hybrid", f"{calls} calls", **{"calls": cost, "baseline": "diffusion"} | others)


def comparison(*rows, **others):
    settings = {"title": "A comparison", "data": {"name": "digits"}, "features": "lenet"}
    return Comparison(**settings | {"samples": 1_000, "rows": rows, "models": ()} | others)


def png(shade=128):
    """Bytes of a small picture."""
    out = io.BytesIO()
    Image.new("L", (40, 20), shade).save(out, "PNG", optimize=True)
    return out.getvalue()


def full(name="digits"):
    """One of everything, with `name` wherever a user's text can stand."""
    more = {
        "kid": Estimate(value=-0.001, low=-0.002, high=0.0005, floor=0.0),
        "recall": estimate(0.8, 0.01, floor=0.9),
        "mode_std": estimate(0.9, 0.05),
        "c2st_p": estimate(0.03, 0.0),
    }
    best = {"frechet_distance": estimate(12.0, floor=10.0, ideal=0.0)} | more
    pictures = {"picture": png(), "neighbours": png(90), "histogram": (5, 0, 9)}
    rows = (
        gan(figures=more, **pictures, details={name: name}),
        refined(5, quality=20.0, seconds=6e-5),
        diffusion(4, quality=50.0, seconds=4e-4, figures=more, **pictures),
        diffusion(8, quality=15.0, seconds=8e-4, kind=name, models=(name,)),
        guided(8, quality=12.0, seconds=2e-3, figures=best, **pictures),
        row(name, name, quality=14.0, seconds=9e-4, kind=name, models=(name, "GAN")),
        row("broken", quality=float("inf")),
        row("unknown", quality=float("nan"), figures={"kid": estimate(float("nan"))}),
    )
    curves = {name: ((0.0, 1.0, 2.0, 3.0), (1.0, float("nan"), 0.5, 0.1)), "one": ((1.0,), (1.0,))}
    models = (
        TrainingSummary(name="GAN", command=f"train {name}", facts={"seconds": 90.0, name: 3.0}),
        TrainingSummary(
            name=name,
            command="train",
            facts={"steps": 10.0, "seconds": 200.0},
            curves=curves,
            settings=f"name: {name}",
        ),
    )
    return comparison(
        *rows,
        title=name,
        data={name: name},
        features=name,
        models=models,
        real_picture=png(255),
        real_histogram=(6, 7, 8),
        classes=(name, "b", "c"),
        warnings=(name,),
        provenance={"command": name, name: "1.0"},
    )
