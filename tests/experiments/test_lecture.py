"""The lecture's page: its numbers against values worked out elsewhere, and a small one in full."""

import importlib
import json
import math
import sys
from html.parser import HTMLParser

import pytest
import torch
from experiments.conftest import EXPERIMENTS

from hybridgen.cli import command

NORMALS = {0: -1.3863, 0.5: -1.3257, 1: -1.1635, 2: -0.7126, 4: -0.1209}
"""The value of the game of N(0, 1) and N(mu, 1) with the best discriminator."""


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(EXPERIMENTS))
    names = ["lecture", *(path.stem for path in EXPERIMENTS.glob("lecture_*.py"))]
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(EXPERIMENTS))
    for name in names:
        del sys.modules[name]


@pytest.fixture
def theory(modules):
    return modules["lecture_theory"]


@pytest.fixture
def samples(modules):
    return modules["lecture_samples"]


@pytest.fixture
def games(modules):
    return modules["lecture_games"]


def quick(modules, **values):
    return modules["lecture"].Lecture(effort=0.02, **values)


def values(statement):
    return {check.key: check.measured for check in statement.checks}


def test_the_folding_network_is_the_fold_and_its_density_integrates_to_one(samples):
    z = torch.linspace(-4, 4, 81)[:, None]
    torch.testing.assert_close(samples.folding_network()(z), (z.abs() - 1).abs())
    x = torch.linspace(0, 9, 90_001, dtype=torch.float64)
    mass = torch.trapezoid(samples.folded_density(x), x)
    # The jump at 1 costs the trapezoid rule half a step of it.
    assert float(mass) == pytest.approx(1, abs=1e-4)
    branch = torch.trapezoid(samples.folded_density(x, branches=False), x)
    assert float(branch) == pytest.approx(0.158655, abs=1e-6)


def test_twice_the_jsd_by_the_two_kls_is_the_value_of_the_game(theory):
    for mu, value in NORMALS.items():
        assert theory.two_jsd(mu) - math.log(4) == pytest.approx(value, abs=5e-5)


def test_the_best_discriminator_is_the_ratio_of_the_densities(theory):
    x = torch.linspace(-3, 5, 41, dtype=torch.float64)
    p, q = (torch.exp(-((x - m) ** 2) / 2) for m in (0, 2))
    torch.testing.assert_close(theory.optimal_probability(x, 2.0), p / (p + q))


def test_a_descent_with_the_best_discriminator_starts_at_its_value_and_halves_a_small_shift(theory):
    values, places = theory.descended(0.01, 1.0, steps=1)
    jsd = theory.mixture_divergences(theory.STANDARD, theory.gaussian((1, 0.01, 1)))["jsd"].value
    assert float(values[0]) == pytest.approx(2 * jsd - math.log(4), abs=1e-7)
    # Near the data 2 JSD is m^2 / 4, so a step of rate 1 takes half of the mean away.
    assert float(places[1, 0]) == pytest.approx(0.005, rel=1e-3)
    values, _ = theory.descended(4.0, 0.3, steps=0)
    jsd = theory.mixture_divergences(theory.STANDARD, theory.gaussian((1, 4, 0.3)))["jsd"].value
    assert float(values[0]) == pytest.approx(2 * jsd - math.log(4), abs=1e-6)


def test_every_statement_is_a_function_of_the_module_that_script_and_docs_name(modules):
    text = (EXPERIMENTS.parent / "docs/lecture.md").read_text()
    for name, module in modules["lecture"].STATEMENTS.items():
        assert callable(getattr(modules[module], name))
        assert f"| `{name}` | `{module}.py` |" in text


def test_the_accuracy_of_a_threshold_is_that_of_normal_tables(theory):
    real, fake = theory.STANDARD, theory.gaussian((1, 2, 1))
    threshold = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Flatten(0))
    for at, expected in ((1.0, 0.841345), (0.0, (0.5 + 0.977250) / 2), (-40.0, 0.5)):
        torch.nn.init.constant_(threshold[0].weight, -1)
        torch.nn.init.constant_(threshold[0].bias, at)
        # The grid's step at the threshold costs up to half a step of a density.
        assert theory.accuracy(real, fake, threshold) == pytest.approx(expected, abs=1e-3)


def test_what_is_exact_holds_at_any_effort(modules, theory, samples):
    settings, divergences = quick(modules), modules["lecture_divergences"]
    exact = (divergences.divergences, divergences.modes, theory.optimum)
    for statement in (make(settings) for make in exact):
        assert all(check.holds for check in statement.checks), statement.name
    assert samples.sampler(settings).checks[2].holds


def test_a_discriminator_trained_briefly_is_near_the_ratio(modules, theory):
    discriminator = theory.discriminator(modules["lecture"].Lecture(effort=0.6))
    *closeness, accuracy = discriminator.checks
    assert len(closeness) == 5
    assert max(check.measured for check in closeness) <= 0.03
    assert accuracy.truth == pytest.approx(0.841345, abs=1e-6)  # Phi(1)
    assert accuracy.holds
    value = theory.value(modules["lecture"].Lecture(effort=0.6))
    assert all(check.holds for check in value.checks)
    for mu, expected in NORMALS.items():
        key = f"v_of_the_trained_d_mu_{mu:g}".replace(".", "_")
        assert values(value)[key] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("relation", "measured", "holds"),
    [
        *(("", 1.05, True), ("", 0.95, True), ("", 1.2, False), ("", math.nan, False)),
        *(("at most ", 0.2, True), ("at most ", 1.2, False), ("at most ", math.nan, False)),
        *(("at least ", 1.2, True), ("at least ", 0.8, False), ("at least ", math.nan, False)),
    ],
)
def test_a_check_holds_on_its_side_and_within_its_tolerance(modules, relation, measured, holds):
    check = modules["lecture_parts"].Check("a number, \u03bc = 0.5", measured, 1, 0.1, relation)
    assert check.holds is holds
    assert check.key == "a_number_mu_0_5"


def test_an_infinite_number_holds_where_the_truth_is_infinite(modules):
    check = modules["lecture_parts"].Check
    assert check("infinite", math.inf, math.inf).holds
    assert not check("infinite", -math.inf, math.inf).holds
    assert not check("finite", 1e300, math.inf).holds


def test_the_best_fit_by_jsd_covers_modes_until_they_are_far_apart(modules):
    best = modules["lecture_divergences"].best_gaussian
    near, far = best("jsd", 1.5), best("jsd", 2.4)
    assert near[0] == pytest.approx(0, abs=1e-3)
    assert far[0] == pytest.approx(2.4, abs=0.1)
    # Both ends: one mode exactly, and the divergence of half the mass.
    assert far[1] == pytest.approx(0.5, abs=0.1)
    assert near[2] < far[2] < modules["lecture_parts"].ONE_OF_TWO


def test_cells_hold_the_probability_of_a_mixture_and_quantiles_its_noise(games):
    mixture = games.gaussian((0.5, -1, 0.5), (0.5, 1, 0.5))
    shares = games.cell_shares(mixture)
    assert float(shares.sum()) == pytest.approx(1, abs=1e-9)
    below = float(shares[games.CENTRES < -1].sum())
    assert below == pytest.approx(0.25, abs=1e-4)
    z = games.normal_quantiles(10_001)
    assert float(z.var()) == pytest.approx(1, abs=5e-3)


def test_the_jsd_of_a_snapshot_is_that_of_the_densities(games, theory):
    generator = games.LineGenerator(shift=2.0, slope=1.0)
    p = games.cell_shares(games.gaussian((1, 0, 1)))
    networks = (generator, games.MlpDiscriminator(dimension=1, width=4, depth=1))
    shot = games.snapshot(0, {}, networks, p)
    assert shot.jsd == pytest.approx(theory.two_jsd(2.0) / 2, abs=2e-3)
    assert len(shot.places) == 25


def test_an_autoregressive_model_is_a_distribution_and_looks_back_alone(modules):
    torch.manual_seed(0)
    pixels = modules["lecture_pixels"]
    model = pixels.Autoregressive(size=4, levels=3, width=24).eval()
    every = torch.cartesian_prod(*[torch.arange(3)] * 4)
    assert float((2 ** (-4 * model.bits(every).detach())).sum()) == pytest.approx(1, abs=1e-5)
    x = every[:1].float().requires_grad_(True)
    for place in range(4):
        (slope,) = torch.autograd.grad(model(x)[:, place].square().sum(), x)
        assert bool((slope[0, place:] == 0).all())
        assert bool((slope[0, :place] != 0).all())
    counts = torch.zeros(81)
    drawn = model.sample(20_000).long()
    counts.index_add_(0, drawn @ torch.tensor([27, 9, 3, 1]), torch.ones(len(drawn)))
    assert float((counts / len(drawn) - 2 ** (-4 * model.bits(every).detach())).abs().sum()) < 0.1


def test_pixels_alone_cost_their_entropy(modules):
    pixels = modules["lecture_pixels"]
    half = torch.tensor([[3, 0], [5, 0]]).repeat(50_000, 1)
    assert pixels.independent_bits(half, half) == pytest.approx(0.5, abs=5e-3)  # one bit, and none


def test_grey_levels_of_digits_come_back_and_their_classes_are_ten(modules):
    recipes = modules["lecture_recipes"]
    x, _ = recipes.DIGITS.reference("train", 1_000)
    levels = recipes.levels_of(x)
    assert sorted(levels.unique().tolist()) == list(range(17))
    assert float((recipes.images_of(levels) - x).abs().max()) < 1 / 127
    real = recipes.quality(x)
    assert real.distance == pytest.approx(0.9, abs=0.1)  # the recorded floor of this many
    assert real.classes == pytest.approx(10, abs=0.1)
    alike = recipes.quality(x[:1].repeat(50, 1, 1, 1))
    assert alike.classes == pytest.approx(1)
    assert alike.distance > 30 * real.distance


def test_a_modulated_convolution_keeps_unit_variance_whatever_the_style(modules):
    torch.manual_seed(0)
    weight, h = torch.randn(8, 8, 3, 3), torch.randn(2, 8, 200, 200)
    style = torch.tensor([[0.1] * 4 + [5.0] * 4, [3.0] * 8])
    modulated = modules["lecture_networks"].modulated
    out = modulated(weight, h, style)
    torch.testing.assert_close(out.var((2, 3)), torch.ones(2, 8), atol=0.05, rtol=0)
    scale = weight.square().sum((1, 2, 3)).sqrt()[:, None, None]
    plain = torch.nn.functional.conv2d(h, weight, padding=1)
    torch.testing.assert_close(modulated(weight, h, torch.ones(2, 8)) * scale, plain)


def test_every_recipe_makes_images_that_its_discriminator_takes(modules):
    recipes = modules["lecture_recipes"]
    for recipe in recipes.RECIPES.values():
        generator, discriminator = recipe.networks()
        x = generator(torch.randn(3, recipes.LATENT), None)
        assert x.shape == (3, 1, 8, 8)
        assert discriminator(x, torch.zeros(3), None).shape == (3,)
    for layer in recipes.RECIPES[2018].networks()[1].modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            assert torch.nn.utils.parametrize.is_parametrized(layer, "weight")


def test_the_best_denoiser_is_the_posterior_mean_and_no_other_has_less_loss(modules):
    denoising = modules["lecture_denoising"]
    sigma, x = torch.tensor([0.3, 5.0]), torch.tensor([[1.2, 0.4], [-3.0, 2.0]])
    y = torch.cartesian_prod(*[torch.linspace(-2.5, 2.5, 501, dtype=torch.float64)] * 2)
    for level, place in zip(sigma, x, strict=True):
        weight = denoising.RING.log_density(y) - (y - place).square().sum(1) / (2 * level**2)
        mean = torch.softmax(weight, dim=0) @ y
        best = denoising.best_denoiser(place[None], level[None])[0]
        torch.testing.assert_close(best.double(), mean, atol=1e-4, rtol=0)
    rng = denoising.rng_for("test")
    clean, _ = denoising.RING.sample(4_000, rng)
    levels = torch.rand(len(clean), generator=rng) + 0.1
    held_out = (clean, torch.randn(clean.shape, generator=rng), levels)
    least = denoising.held_out_loss(denoising.best_denoiser, *held_out)
    for factor in (0.9, 1.1):
        other = denoising.held_out_loss(
            lambda *v, f=factor: f * denoising.best_denoiser(*v), *held_out
        )
        assert other > least


def test_calls_are_the_forward_passes_that_were_made(modules):
    pixels = modules["lecture_pixels"]
    model = pixels.Autoregressive(size=5, levels=3, width=8).eval()
    run = pixels.timed(model.sample, 7, model)
    assert (run.calls, len(run.samples)) == (5, 7)
    assert pixels.timed(lambda n: model(torch.zeros(n, 5)), 7, model).calls == 1


def test_a_rule_that_never_stops_does_not_hold(modules, monkeypatch):
    losses = modules["lecture_losses"]
    monkeypatch.setattr(losses, "ending", lambda *_: None)
    (share,) = [c for c in losses.stopping(quick(modules)).checks if c.name.startswith("share")]
    assert share.measured == 1
    assert not share.holds


def test_the_noise_of_a_style_generator_is_decided_by_its_latents(modules):
    generator = modules["lecture_networks"].StyleGenerator()
    torch.nn.init.ones_(generator.strengths)
    z = torch.randn(3, 64)
    assert torch.equal(generator(z), generator(z))
    assert not torch.allclose(generator(z), generator(z.clone() * 2))  # one style, other noise


class Reader(HTMLParser):
    """Which elements a page has, by name, and their ids."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.ids, self.links = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_of_two_modes_one_is_as_far_from_both_as_histograms_say(modules):
    parts = modules["lecture_parts"]
    both, one = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    jsd = modules["lecture_divergences"].histogram_divergences(both, one)["jsd"]
    assert jsd == pytest.approx(parts.ONE_OF_TWO, abs=1e-9)
    assert jsd == pytest.approx(0.216, abs=5e-4)  # 4 of 8 modes kept


def test_a_page_stands_alone_and_its_figures_are_flat(modules, tmp_path, capsys):
    script = modules["lecture"]
    names = ["optimum", "samples", "collapse", "closing"]  # the notebook's test has all
    argv = ["--out", str(tmp_path / "run"), "--effort", "0.01"]
    argv += ["--statements", f"[{','.join(names)}]"]
    assert command(script.main, script.Lecture, argv) == 0, capsys.readouterr().err
    page = (tmp_path / "run" / "lecture.html").read_text()
    figures = json.loads((tmp_path / "run" / "result.json").read_text())
    reader = Reader(page)
    assert [name for name in reader.ids if name in names] == names
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.tags.count("svg") >= len(names)
    links = [link for link in reader.links if not link.startswith(("#", "data:"))]
    assert [link.rpartition("/")[2] for link in links] == [
        *("results.md", "digits-comparison.html", "stability.md")
    ]
    assert all((tmp_path / "run" / link).is_file() for link in links)
    assert "script" not in reader.tags
    for name in names:
        own_figures = [key for key in figures if key.startswith(f"{name}/")]
        assert f"{name}/cpu_seconds" in own_figures
        assert len(own_figures) >= 4
    assert figures["optimum/v_at_the_end_truth"] == pytest.approx(-math.log(4))
    assert set(map(type, figures.values())) <= {int, float, type(None)}


def test_some_statements_are_made_alone_and_an_unknown_one_is_refused(modules, tmp_path, capsys):
    script = modules["lecture"]
    argv = ["--out", str(tmp_path / "run"), "--effort", "0.01", "--statements"]
    assert command(script.main, script.Lecture, [*argv, "[modes]"]) == 0
    assert 'id="modes"' in (tmp_path / "run" / "lecture.html").read_text()
    assert command(script.main, script.Lecture, [*argv, "[mode]"]) == 2
    assert (
        "must be a list of which each is one of sampler, discriminator" in capsys.readouterr().err
    )
