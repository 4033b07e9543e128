"""Hostile settings for every script, up to the moment at which it would make its folder.

Used by `experiments/endurance.py --what fuzz`, and for a few seconds by the tests.
"""

import contextlib
import io
import pkgutil
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from unittest import mock

from hybridgen.cli import command
from hybridgen.settings import Range, hints

LONGEST, SLOWEST = 300, 60
"""Characters of a message, and seconds of an answer."""
_NETWORKS = {"generator.width": "4", "generator.latent": "4", "discriminator.width": "4"}
_NETWORKS |= {"denoiser.widths": "[8]", "denoiser.width": "8", "training.batch": "8"}
_POINTS = {f"{role}.architecture": "mlp" for role in ("generator", "discriminator")}
_POINTS |= {"data.path": "ring"}
_CHAIN = {"adversarial.source": "chain"}
SCRIPTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "gan": ("gan.main", "gan.Gan", _NETWORKS),
    "diffusion": ("diffusion.main", "diffusion.Diffusion", _NETWORKS),
    "hybrid": (
        "hybrid.hybrid",
        "diffusion.Diffusion",
        _CHAIN | _NETWORKS,
    ),
    "autoencoder": (
        "autoencoder.main",
        "autoencoder.Autoencoder",
        {"autoencoder.widths": "[8, 8]", **_NETWORKS},
    ),
    "guide": ("guide.main", "guide.GuideExperiment", {"run": "model", **_NETWORKS}),
    "distill": ("distill.main", "distill.Distill", {"run": "model", **_NETWORKS}),
    "finetune": ("finetune.main", "finetune.Finetune", {"run": "model", "training.batch": "8"}),
    "features": ("features.main", "features.FeatureExperiment", {"training.batch": "8"}),
    "compare": ("compare.main", "compare.Compare", {"config": "compare.yaml"}),
    "benchmark": ("benchmark.main", "benchmark.Benchmark", {}),
    "instruments": ("instruments.main", "instruments.Instruments", _NETWORKS),
    "seeds": ("seeds.main", "seeds.Seeds", {}),
    "endurance": ("endurance.main", "endurance.Endurance", {}),
}
"""Of each script: what it runs, its settings, and some that keep networks small."""

FLAGS = ("true", "false")
WHOLE = (-1, 0, 1, 2, 3, 7, 64, 10**4, 10**7, 10**8, 10**12, 10**20, 10**400, 1.5, -(10**9))
NUMBERS = (-1, 0, 1e-300, 1e-7, 1e-3, 0.5, 1, 2, 1e3, 1e9, 1e30, 1e300)
WORDS = ("", "x", "null", "true", "nan", "inf", "-inf", "[]", "{}", "[0]", "{a: 1}", "3", "1e3")
TEXT = (
    *("..", "/", "~nobody/x", "a" * 5000, "x\0y", "\u00e4 b", "a\nb", "[", "{", "../../x", "."),
    *("-", "--", "${HOME}", "%s%n", "\u202e", "con:", "a/b/c", "!!python/object:os.system"),
)


class Reached(Exception):
    """All that can be checked was checked, and the first write would come now."""


class Slow(Exception):
    """No answer in time."""


@dataclass(frozen=True)
class Fault:
    """An input that was not answered as it should be, and how it was."""

    script: str
    argv: tuple[str, ...]
    what: str


def leaves(settings: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting's dotted name and type; groups of settings too."""
    for field, hint in hints(settings).items():
        yield f"{prefix}{field}", hint
        if is_dataclass(hint):
            yield from leaves(hint, f"{prefix}{field}.")  # type: ignore[arg-type]


def parts(hint: Any) -> Iterator[Any]:
    """A type, those inside it, and their ranges."""
    yield hint
    for inner in get_args(hint):
        yield from parts(inner)


def value_for(hint: Any, draws: random.Random) -> str:
    """A value that a careless or hostile person could give, the ends of ranges among them."""
    inner = list(parts(hint))
    pool: list[object] = list(WORDS)
    for kind, values in ((int, WHOLE), (float, NUMBERS), (bool, FLAGS), (str, TEXT), (Path, TEXT)):
        pool += values if kind in inner else ()
    ends = [end for each in inner if isinstance(each, Range) for end in (each.least, each.most)]
    whole = [int(end) for end in ends] if int in inner else ends
    choices = [choice for each in inner if get_origin(each) is Literal for choice in get_args(each)]
    if (usual := [*whole, *choices]) and draws.random() < 0.5:
        pool = usual
    count = (
        draws.randrange(4)
        if any(get_origin(each) is tuple for each in inner) and draws.random() < 0.7
        else None
    )
    values = [str(draws.choice(pool)) for _ in range(1 if count is None else count)]
    return values[0] if count is None else f"[{', '.join(values)}]"


def misspelt(name: str, draws: random.Random) -> str:
    """The name with a letter missing."""
    cut = draws.randrange(len(name))
    return name[:cut] + name[cut + 1 :]


def inputs(count: int, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Scripts and command lines, the same for one seed."""
    draws = random.Random(seed)
    for number in range(count):
        script = list(SCRIPTS)[number % len(SCRIPTS)]
        _, settings, usual = SCRIPTS[script]
        names = dict(leaves(pkgutil.resolve_name(settings)))
        usual = usual | (_POINTS if draws.random() < 0.3 else {})
        chosen = {name: value for name, value in usual.items() if name in {"config", *names}}
        for name, hint in draws.sample(list(names.items()), draws.choice((1, 1, 1, 2, 3))):
            spelling = misspelt(name, draws) if draws.random() < 0.05 else name
            chosen[spelling] = value_for(hint, draws)
        yield script, [f"--{name}={value}" for name, value in chosen.items()]


def prepare(folder: Path) -> None:
    """What the inputs name: a tiny finished run to guide or fine-tune, and a comparison."""
    from hybridgen.networks.build import build_denoiser
    from hybridgen.networks.settings import DenoiserSettings

    model = folder / "model"
    build_denoiser(DenoiserSettings(widths=(8,)), (1, 8, 8)).save_pretrained(model / "denoiser")
    (model / "config.yaml").write_text("{data: {path: digits}, sampler: {steps: 2}, seed: 0}\n")
    (model / "result.json").write_text("{}\n")
    (folder / "compare.yaml").write_text(
        "{train: true, models: [{name: gan, script: gan, config: gan/digits}],"
        " methods: [{name: GAN, model: gan}]}\n"
    )


def fuzz(count: int, seed: int, folder: Path) -> Iterator[Fault | None]:
    """Answer `count` inputs in this process, which works in `folder` meanwhile.

    Yields what is wrong with each answer: anything but one sentence and status 2, or a first step
    of training where a script trains, or the moment of its first write; a file left behind; more
    than a minute.
    """
    import huggingface_hub
    from torch import nn

    from hybridgen.evaluation import fit, guide_data
    from hybridgen.training import lock, run

    def one_step(_: object, steps: Iterator, *__: object, **___: object) -> None:
        next(steps)
        raise Reached

    prepare(folder)
    before = set(folder.rglob("*"))
    with ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        offline = huggingface_hub.constants
        stack.enter_context(mock.patch.object(offline, "HF_HUB_OFFLINE", True))
        fake = stack.enter_context(mock.patch.object(run, "Run")).return_value
        fake.result, fake.resume.return_value, fake.__exit__.return_value = None, 0, False
        fake.__enter__.side_effect = lambda: fake
        ends = ((lock, "FolderLock"), (guide_data.GuideData, "draw"), (guide_data, "draw_pairs"))
        for module, name in ends:
            stack.enter_context(mock.patch.object(module, name, side_effect=Reached))
        stack.enter_context(mock.patch.object(fit, "fit", side_effect=one_step))
        # A compiler may take more than a minute by right.
        stack.enter_context(mock.patch.object(nn.Module, "compile"))
        for script, argv in inputs(count, seed):
            fake.reset_mock()
            wrong = answer(script, argv, late=lambda: fake.__enter__.called)
            if left := sorted(set(folder.rglob("*")) - before):
                wrong = wrong or f"it left {left[0]}"
            yield Fault(script, tuple(argv), wrong) if wrong else None


def answer(script: str, argv: Sequence[str], *, late: Callable[[], bool]) -> str:
    """What is wrong with how a script answers; empty if nothing is.

    Args:
        late: whether its run has begun, so that no argument may be refused any more.
    """
    from accelerate.state import AcceleratorState

    main, settings, _ = SCRIPTS[script]
    run: Any = pkgutil.resolve_name(main)
    if script in ("features", "benchmark", "seeds", "endurance"):  # which go on with work at once
        run = mock.Mock(side_effect=Reached)
    error = io.StringIO()
    AcceleratorState._reset_state(reset_partial_state=True)
    before = signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(SLOWEST)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
            status = command(run, pkgutil.resolve_name(settings), list(argv))
    except Reached:
        return ""
    except (Exception, SystemExit) as left:
        return f"{type(left).__name__}: {left}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    lines = error.getvalue().splitlines()
    if status != 1 + (not late()) or not lines or not lines[-1].startswith("error: "):
        return f"status {status} and {lines}"
    return "" if max(map(len, lines)) <= LONGEST else f"a message of {len(lines[-1])} characters"


def _give_up(*_: object) -> None:
    raise Slow(f"no answer in {SLOWEST} s")
