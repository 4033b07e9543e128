"""Every scheduler of diffusers that is known, driven by denoisers whose answers are known."""

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
from oracles import (
    Counted,
    P,
    Q,
    cumulative,
    denoise,
    draws,
    exact_denoiser,
    exact_discriminator,
    heun_scheduler,
    unit_noise,
)
from scipy.stats import wasserstein_distance
from torch import nn

from hybridgen.errors import RunError
from hybridgen.maths.noise import karras_sigmas
from hybridgen.protocols import Cost
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.sampling.pretrained import DiffusersDenoiser
from hybridgen.sampling.samplers import Heun
from hybridgen.sampling.schedulers import Scheduled

N, EVEN = 20_000, 4_000
FLOOR = 0.0167
"""Mean W1 between two sets of 20 000 draws of P, over 50 pairs."""

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}


def make(name, **config):
    if name in ("DDPM", "DDIM"):
        config.setdefault("clip_sample", False)
    return getattr(diffusers, f"{name}Scheduler")(**config)


KARRAS = [80.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1]
EVERY = [
    ("DDPM", {}),
    ("DDIM", {}),
    ("DPMSolverMultistep", {}),
    ("DPMSolverMultistep", {"use_karras_sigmas": True}),
    ("DPMSolverMultistep", FLOW),
    ("UniPCMultistep", {}),
    ("UniPCMultistep", FLOW),
    ("EulerDiscrete", {}),
    ("HeunDiscrete", {}),
    ("EDMEuler", {}),
    ("EDMDPMSolverMultistep", {}),
    ("FlowMatchEulerDiscrete", {}),
    ("FlowMatchEulerDiscrete", {"shift": 3.0}),
]
NAMES = [name + ("-" + "-".join(map(str, config)) if config else "") for name, config in EVERY]
every = pytest.mark.parametrize(("name", "config"), EVERY, ids=NAMES)


def sampler(name, config, steps, denoiser=None, **more):
    return Scheduled(denoiser or exact_denoiser(P), make(name, **config), (1,), steps, **more)


def quantiles():
    grid = torch.linspace(-5, 5, 20_001, dtype=torch.float64)
    levels = (torch.arange(EVEN, dtype=torch.float64) + 0.5) / EVEN
    return np.interp(levels.numpy(), cumulative(P, grid).numpy(), grid.numpy())


def even_noise():
    """Noise whose own distribution is exact, so that what is measured is the path."""
    levels = (torch.arange(EVEN, dtype=torch.float64) + 0.5) / EVEN
    return torch.special.ndtri(levels)[:, None]


def test_the_floor_is_what_two_fresh_sets_score():
    pairs = [(draws(P, N, seed=2 * i)[:, 0], draws(P, N, seed=2 * i + 1)[:, 0]) for i in range(50)]
    assert np.mean([wasserstein_distance(a, b) for a, b in pairs]) == pytest.approx(FLOOR, abs=1e-4)


# Measured W1: second-order .0008 (.0020 on HeunDiscrete's own short table), first-order .005-.009.
FIRST_ORDER = ("DDIM", "EulerDiscrete", "EDMEuler", "FlowMatchEulerDiscrete")


@pytest.mark.parametrize(("name", "config"), EVERY[1:], ids=NAMES[1:])
def test_deterministic_paths_end_in_the_right_distribution(name, config):
    samples = sampler(name, config, 200)(even_noise())
    off = wasserstein_distance(samples[:, 0], quantiles())
    assert off < (FLOOR if name in FIRST_ORDER else 0.0025)


def test_ancestral_sampling_ends_in_the_right_distribution():
    run = sampler("DDPM", {}, 200)
    batches = [run(unit_noise(N, seed=seed))[:, 0] for seed in range(3)]
    assert np.mean([wasserstein_distance(x, quantiles()) for x in batches]) < 2 * FLOOR


def test_stochastic_solvers_end_in_the_right_distribution():
    config = {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"}
    samples = sampler("DPMSolverMultistep", config, 200)(unit_noise(N, seed=3))
    assert wasserstein_distance(samples[:, 0], quantiles()) < 2 * FLOOR


PREDICTION_TYPES = {
    "DDPM": ("epsilon", "v_prediction", "sample"),
    "DDIM": ("epsilon", "v_prediction", "sample"),
    "DPMSolverMultistep": ("epsilon", "v_prediction", "sample"),
    "UniPCMultistep": ("epsilon", "v_prediction", "sample"),
    "EulerDiscrete": ("epsilon", "v_prediction", "sample"),
    "HeunDiscrete": ("epsilon", "v_prediction", "sample"),
    "EDMEuler": ("epsilon", "v_prediction"),
    "EDMDPMSolverMultistep": ("epsilon", "v_prediction"),
}


@pytest.mark.parametrize("name", PREDICTION_TYPES)
def test_samples_do_not_depend_on_the_prediction_type(name):
    first, *others = (
        sampler(name, {"prediction_type": kind}, 12)(unit_noise(64))
        for kind in PREDICTION_TYPES[name]
    )
    for samples in others:
        torch.testing.assert_close(samples, first, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "UniPCMultistep"])
@pytest.mark.parametrize("kind", ["epsilon", "sample"])
def test_samples_on_flow_levels_do_not_depend_on_the_prediction_type(name, kind):
    prediction = sampler(name, {"use_flow_sigmas": True, "prediction_type": kind}, 12)(
        unit_noise(64)
    )
    torch.testing.assert_close(
        sampler(name, FLOW, 12)(unit_noise(64)), prediction, rtol=0, atol=2e-3
    )


@every
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_calls_and_cost_are_what_a_counting_denoiser_counts(name, config, steps):
    denoiser = Counted(exact_denoiser(P))
    run = sampler(name, config, steps, denoiser)
    run(unit_noise(4))
    expected = 2 * steps - 1 if name == "HeunDiscrete" else steps
    assert denoiser.calls == run.cost.calls == expected
    assert run.cost == Cost(denoiser=expected)


def test_a_guided_denoiser_tells_its_cost_at_the_level_it_is_shown():
    calls = []

    class Dear:
        def __call__(self, x, sigma, label=None):
            return denoise(P, x, sigma)

        def cost(self, sigma):
            calls.append(sigma)
            return Cost(denoiser=2, discriminator_forward=1, discriminator_backward=int(sigma < 1))

    run = sampler("EDMEuler", {}, 5, Dear(), highest=10.0)
    sigmas = make("EDMEuler").sigmas
    assert run.cost.calls == 10 and run.cost.discriminator_forward == 5
    assert run.cost.discriminator_backward == sum(s < 1 for s in calls[:5]) and sigmas.max() > 10
    assert max(calls) == 10


@every
def test_the_denoiser_sees_falling_levels_in_the_exploding_scale(name, config):
    """A perfect denoiser of one point is told `x = point + sigma n`, so it can check the scale."""
    point, seen = 0.7, []

    def denoiser(x, sigma, label=None):
        seen.append((float(sigma[0]), float(x[0])))
        return torch.full_like(x, point)

    samples = sampler(name, config, 9, denoiser)(torch.ones(1, 1, dtype=torch.float64))
    sigmas = [sigma for sigma, _ in seen]
    assert all(a >= b for a, b in pairwise(sigmas)) and sigmas[-1] > 0
    if name != "DDPM":  # deterministic: the noise stays the same all the way down
        noises = [(x - point) / sigma for sigma, x in seen if sigma < 20]
        assert np.std(noises) < 1e-3
    assert float(samples) == pytest.approx(point, abs=0.05 if name == "DDPM" else 2e-4)


@every
def test_the_same_noise_gives_the_same_samples_and_other_noise_others(name, config):
    run = sampler(name, config, 5)
    first, again, other = run(unit_noise(8)), run(unit_noise(8)), run(unit_noise(8, seed=1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_generator_decides_what_a_stochastic_scheduler_draws():
    run = sampler("DDPM", {}, 5)

    def seeded(seed):
        return run(unit_noise(8), generator=torch.Generator().manual_seed(seed))

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))
    each = [torch.Generator().manual_seed(i) for i in range(8)]
    alone = run(unit_noise(8)[3:4], generator=[torch.Generator().manual_seed(3)])
    torch.testing.assert_close(run(unit_noise(8), generator=each)[3:4], alone)


def test_threads_share_a_sampler_and_leave_the_scheduler_as_it_was():
    scheduler = make("UniPCMultistep")
    before = scheduler.timesteps.clone()
    run = Scheduled(Counted(exact_denoiser(P)), scheduler, (1,), 30)
    expected = [run(unit_noise(50, seed=i)) for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        batches = list(pool.map(lambda i: run(unit_noise(50, seed=i)), range(6)))
    assert all(torch.equal(a, b) for a, b in zip(batches, expected, strict=True))
    assert torch.equal(scheduler.timesteps, before) and scheduler.num_inference_steps is None
    scheduler.set_timesteps(3)
    assert run.cost.calls == 30


@pytest.mark.parametrize(
    ("name", "config"),
    [("FlowMatchEulerDiscrete", {}), ("DDIM", {**ZERO_SNR, "timestep_spacing": "trailing"})],
)
def test_a_guide_works_up_to_pure_noise_in_float32(name, config):
    class Wrong:
        """The exact denoiser of Q, trained up to pure noise."""

        levels = (1e-3, 1e7)

        def __call__(self, x, sigma, label=None):
            return denoise(Q, x.double(), sigma.double()).to(x)

    guided = discriminator_guidance(Wrong(), exact_discriminator(P, Q), window=(0.0, math.inf))
    samples = sampler(name, config, 200, guided)(even_noise().float())
    assert wasserstein_distance(samples[:, 0], quantiles()) < 2 * FLOOR


@pytest.mark.parametrize("name", ["DDPM", "DDIM"])
def test_zero_terminal_snr_starts_at_the_highest_level_shown(name):
    seen = []

    def denoiser(x, sigma, label=None):
        seen.append((float(sigma[0]), x.clone()))
        return denoise(P, x, sigma)

    config = {**ZERO_SNR, "timestep_spacing": "trailing"}
    noise = unit_noise(16)
    samples = sampler(name, config, 50, denoiser, highest=200.0)(noise)
    assert torch.isfinite(samples).all()
    assert seen[0][0] == 200 and max(sigma for sigma, _ in seen) == 200
    torch.testing.assert_close(seen[0][1], 200 * noise)


@pytest.mark.parametrize("name", ["DDIM", "DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete"])
def test_zero_terminal_snr_ends_in_the_right_distribution(name):
    config = {**ZERO_SNR, "timestep_spacing": "trailing"}
    samples = sampler(name, config, 200)(even_noise())
    assert wasserstein_distance(samples[:, 0], quantiles()) < FLOOR


def test_flow_matching_starts_with_the_noise_itself_at_the_highest_level_shown():
    seen = []

    def denoiser(x, sigma, label=None):
        seen.append((float(sigma[0]), x.clone()))
        return denoise(P, x, sigma)

    noise = unit_noise(16)
    run = sampler("FlowMatchEulerDiscrete", {}, 10, denoiser, highest=80.0)
    assert run._levels[0].sigma == math.inf
    assert torch.isfinite(run(noise)).all()
    assert seen[0][0] == 80
    torch.testing.assert_close(seen[0][1], 80 * noise)


@pytest.mark.parametrize(
    "name", ["DDPM", "DDIM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep"]
)
def test_epsilon_of_betas_that_end_in_pure_noise_is_refused(name):
    with pytest.raises(ValueError, match="end in pure noise, where prediction_type='epsilon'"):
        sampler(name, {"rescale_betas_zero_snr": True}, 10)
    with pytest.raises(ValueError, match="end in pure noise"):
        DiffusersDenoiser(nn.Identity(), make(name, rescale_betas_zero_snr=True))
    sampler(name, {"beta_schedule": "squaredcos_cap_v2"}, 10)  # ends in noise of level 20 000


def test_a_scheduler_that_does_not_rescale_is_not_taken_for_one_that_does():
    scheduler = diffusers.HeunDiscreteScheduler.from_config(make("DDIM", **ZERO_SNR).config)
    assert scheduler.config["rescale_betas_zero_snr"] and float(scheduler.alphas_cumprod[-1]) > 1e-5
    denoiser = DiffusersDenoiser(nn.Identity(), scheduler)
    assert denoiser.levels[1] == pytest.approx(25.15, abs=0.01)


def test_rounded_timesteps_that_coincide_do_not_skip_a_level():
    levels = []

    def denoiser(x, sigma, label=None):
        levels.append(float(sigma[0]))
        return denoise(P, x, sigma)

    crowded = {**FLOW, "flow_shift": 10.0}
    scheduler = make("UniPCMultistep", **crowded)
    scheduler.set_timesteps(150)
    assert scheduler.timesteps[0] == scheduler.timesteps[1]
    sampler("UniPCMultistep", crowded, 150, denoiser, highest=1e7)(unit_noise(4))
    t = scheduler.sigmas[:-1].double()
    np.testing.assert_allclose(levels, t / (1 - t), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@every
def test_samples_have_the_precision_of_the_noise_but_at_least_float32(name, config, dtype):
    samples = sampler(name, config, 4)(unit_noise(8).to(dtype))
    assert samples.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)


def test_labels_reach_the_denoiser_and_no_gradient_is_recorded():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)

    def denoiser(x, sigma, label=None):
        return weight * label[:, None].to(x.dtype).expand_as(x)

    label = torch.tensor([3, 5])
    samples = sampler("EulerDiscrete", {}, 5, denoiser)(unit_noise(2), label)
    torch.testing.assert_close(samples[:, 0], label.double(), rtol=0, atol=1e-3)
    assert not samples.requires_grad


SPACINGS = pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])


@SPACINGS
def test_ddim_ends_in_the_right_distribution_where_its_steps_do_not_divide_those_of_training(
    spacing,
):
    """Measured W1 of 60 steps: .0142 to .0149, and .0374 and .0464 where diffusers' own goes."""
    samples = sampler("DDIM", {"timestep_spacing": spacing}, 60)(even_noise())
    assert wasserstein_distance(samples[:, 0], quantiles()) < 0.0155


@SPACINGS
@pytest.mark.parametrize("steps", [60, KARRAS])
def test_ddim_with_eta_one_takes_the_steps_of_ddpm(spacing, steps):
    """Song et al. 2021, section 4.1: the posterior of both has one mean and one variance."""
    config, noise = {"timestep_spacing": spacing}, unit_noise(64)
    expected = sampler("DDPM", config, steps)(noise)
    samples = sampler("DDIM", config, steps, eta=1.0)(noise)
    torch.testing.assert_close(samples, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("number", "spacing"), [(60, "leading"), (50, "trailing"), (1000, "leading")]
)
def test_ddim_where_diffusers_own_goes_to_the_next_level_is_diffusers_own(number, spacing):
    scheduler = make("DDIM", timestep_spacing=spacing)
    scheduler.set_timesteps(number)
    x = noise = unit_noise(4)
    for t in scheduler.timesteps:
        kept = scheduler.alphas_cumprod[t].double()
        x0 = denoise(P, x / kept.sqrt(), ((1 - kept) / kept).sqrt())
        n = (x - kept.sqrt() * x0) / (1 - kept).sqrt()
        x = scheduler.step(n, t, x, eta=0.0).prev_sample
    expected = sampler("DDIM", {"timestep_spacing": spacing}, number)(noise)
    torch.testing.assert_close(expected, x, rtol=0, atol=1e-5)


def test_a_step_of_ddim_adds_as_much_noise_as_eta_says():
    """`eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a')`: Song et al. 2021, equation 16, data at 0."""
    kept = make("DDIM").alphas_cumprod.double()[[750, 500]]
    fresh = (1 - kept[1]) / (1 - kept[0]) * (1 - kept[0] / kept[1])
    noise = unit_noise(N)
    for eta in (0.0, 0.5):
        run = sampler("DDIM", {}, 4, lambda x, s, label=None: torch.zeros_like(x), eta=eta)
        first, *_ = run.walk(noise)
        added = first.x - ((1 - kept[1] - eta**2 * fresh) / (1 - kept[0])).sqrt() * noise
        assert float(added.std()) == pytest.approx(eta * float(fresh.sqrt()), rel=0.02, abs=1e-6)


@every
@pytest.mark.parametrize("kind", [list, lambda levels: torch.tensor([*levels, 0.0])])
def test_levels_that_are_given_are_visited(name, config, kind):
    denoiser = Counted(exact_denoiser(P))
    run = sampler(name, config, kind(KARRAS), denoiser)
    visited = run.sigmas[::2] if name == "HeunDiscrete" else run.sigmas
    # DDPM and DDIM know the entries of a table, up to three hundredths apart.
    tolerance = 0.015 if name in ("DDPM", "DDIM") else 1e-5
    assert visited == pytest.approx(KARRAS, rel=tolerance)
    assert torch.isfinite(run(unit_noise(8))).all()
    assert denoiser.calls == run.cost.calls == (13 if name == "HeunDiscrete" else 7)


def test_levels_that_are_given_make_the_steps_of_our_heun():
    noise, grid = unit_noise(200), karras_sigmas(18)
    expected = Heun(exact_denoiser(P), (1,), grid)(noise)
    torch.testing.assert_close(
        sampler("HeunDiscrete", {}, grid)(noise), expected, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("name", "config"), EVERY[1:], ids=NAMES[1:])
def test_levels_that_are_given_end_in_the_right_distribution(name, config):
    samples = sampler(name, config, karras_sigmas(100, 0.01, 100))(even_noise())
    assert wasserstein_distance(samples[:, 0], quantiles()) < 2 * FLOOR


@pytest.mark.parametrize("name", ["DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete"])
def test_levels_end_where_the_scheduler_ends(name):
    config = {"final_sigmas_type": "sigma_min", "prediction_type": "sample"}
    run = sampler(name, config, KARRAS, lambda x, s, label=None: torch.zeros_like(x))
    first = make(name).alphas_cumprod[0].double()
    spread = (1 - first).sqrt() if name != "EulerDiscrete" else ((1 - first) / first).sqrt()
    assert float(run(even_noise()).std()) == pytest.approx(float(spread), rel=1e-3)
    with pytest.raises(ValueError, match=r"noise levels fall strictly to 0\.01, got 1, 0\.005"):
        sampler(name, config, [1.0, 0.005])


def test_a_consistency_model_is_sampled_at_levels_that_are_given():
    """Estimates of data at 0: what is left is the noise of the level that was added last."""
    scheduler = diffusers.CMStochasticIterativeScheduler()
    run = Scheduled(lambda x, s, label=None: torch.zeros_like(x), scheduler, (1,), [80.0, 3.0, 0.5])
    visits = [float(visit.x.std()) for visit in run.walk(unit_noise(N))]
    assert run.sigmas == [80.0, 3.0, 0.5]
    assert visits == pytest.approx([3.0, 0.5, 0.0], rel=0.02, abs=1e-3)


def test_levels_need_no_shift_that_depends_on_the_size_of_images():
    config = {"use_dynamic_shifting": True}
    assert sampler("FlowMatchEulerDiscrete", config, KARRAS).sigmas == pytest.approx(KARRAS)


@pytest.mark.parametrize(
    "name", ["DDIM", "EulerDiscrete", "FlowMatchEulerDiscrete", "UniPCMultistep"]
)
def test_sampling_starts_from_an_image_with_noise_of_the_first_level(name):
    """From data at sigma .5, where modes are told apart, each sample comes back near itself."""
    seen, image, noise = [], draws(P, 4_000), unit_noise(4_000)

    def denoiser(x, sigma, label=None):
        seen.append((float(sigma[0]), x.clone()))
        return denoise(P, x, sigma)

    run = sampler(name, {}, [0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02], denoiser)
    samples = run(noise, image=image)
    sigma, x = seen[0]
    torch.testing.assert_close(x, image + sigma * noise, rtol=0, atol=1e-5)
    assert float((samples * image > 0).double().mean()) > 0.999
    assert wasserstein_distance(samples[:, 0], draws(P, 4_000, seed=1)[:, 0]) < 0.05
    with pytest.raises(
        ValueError, match=r"expected an image for each of 4000 noises, \[4000, 1\], got"
    ):
        run(noise, image=image[:5])


@every
def test_a_walk_visits_what_the_call_visits_and_ends_where_it_ends(name, config):
    run, noise = sampler(name, config, 5), unit_noise(8)
    visits = list(run.walk(noise))
    assert [visit.sigma for visit in visits] == run.sigmas
    assert torch.equal(visits[-1].x, run(noise)) and not visits[-1].x.requires_grad
    # Whatever the solver, the last step of a deterministic one goes to its last estimate.
    if name != "HeunDiscrete":
        torch.testing.assert_close(visits[-1].clean, visits[-1].x, rtol=0, atol=1e-4)


def test_what_is_written_into_a_visit_is_what_the_next_step_starts_from():
    seen = []

    def denoiser(x, sigma, label=None):
        seen.append(x.clone())
        return denoise(P, x, sigma)

    for visit in sampler("EDMEuler", {}, 3, denoiser).walk(unit_noise(4)):
        visit.x.fill_(5.0)
    assert [float(x[0]) for x in seen[1:]] == [5.0, 5.0]


def test_a_bar_is_shown_on_request(capsys):
    sampler("DDIM", {}, 3, progress=True)(unit_noise(2))
    assert "3/3" in capsys.readouterr().err
    sampler("DDIM", {}, 3)(unit_noise(2))
    assert capsys.readouterr().err == ""


REFUSED = [
    (lambda: make("PNDM"), r"PNDMScheduler; .* DPMSolverMultistepScheduler.from_config\(scheduler"),
    (
        lambda: make("FlowMatchHeunDiscrete"),
        r"there is FlowMatchEulerDiscreteScheduler: build it with FlowMatchEuler",
    ),
    (lambda: make("DEISMultistep", **FLOW), "there is UniPCMultistepScheduler, DPMSolverM"),
    (lambda: make("VQDiffusion", num_vec_classes=4), "nor for a scheduler of its family; those"),
    (
        lambda: make("DDIM", steps_offset=991),
        "starts at timestep 1891 of a table that ends with 999",
    ),
    (lambda: make("DDPM", prediction_type="score"), "has prediction_type='score', expected one of"),
    (lambda: make("EDMDPMSolverMultistep", prediction_type="sample"), "expected one of epsilon, v"),
    (lambda: make("DDPM", variance_type="learned_range"), 'variance_type="fixed_small"'),
    (
        lambda: make("DPMSolverMultistep", prediction_type="flow_prediction"),
        "needs use_flow_sigmas=True",
    ),
    (
        lambda: make("UniPCMultistep", use_flow_sigmas=True, prediction_type="v_prediction"),
        "expected one of flow_prediction, epsilon, sample",
    ),
    (
        lambda: make("FlowMatchEulerDiscrete", use_dynamic_shifting=True),
        "cannot lay out 10 steps: `mu` must be passed",
    ),
    (lambda: make("FlowMatchEulerDiscrete", invert_sigmas=True), "or leave out invert_sigmas"),
    (
        lambda: make("DPMSolverMultistep", use_karras_sigmas=True, **FLOW),
        "do not fall strictly towards 0: .* another shift",
    ),
    (lambda: make("EDMEuler", sigma_min=3.0, sigma_max=2.0), "another sigma_min, sigma_max or rho"),
]


@pytest.mark.parametrize(("scheduler", "sentence"), REFUSED, ids=[s for _, s in REFUSED])
def test_schedulers_that_cannot_be_driven_are_refused_in_one_sentence(scheduler, sentence):
    with pytest.raises(ValueError, match=sentence) as refusal:
        Scheduled(exact_denoiser(P), scheduler(), (1,), 10)
    assert "\n" not in str(refusal.value)


def test_step_numbers_that_no_schedule_has_are_refused():
    with pytest.raises(ValueError, match="at least one step, got steps=0"):
        sampler("DDIM", {}, 0)
    with pytest.raises(ValueError, match="DDIMScheduler cannot lay out 1001 steps"):
        sampler("DDIM", {}, 1001)
    with pytest.raises(ValueError, match="take fewer steps"):
        sampler("DPMSolverMultistep", {}, 1500)
    with pytest.raises(ValueError, match="highest must be positive and finite, got inf"):
        sampler("DDIM", {}, 5, highest=math.inf)
    with pytest.raises(ValueError, match="take fewer steps, or steps_offset=0"):
        sampler("DDIM", {"steps_offset": 1}, 1000)
    for levels in ([], [1.0, -1.0], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="noise levels are positive and finite, got"):
            sampler("EulerDiscrete", {}, levels)
    with pytest.raises(ValueError, match="cannot lay out 2 steps: noise levels fall strictly to 0"):
        sampler("EulerDiscrete", {}, [1.0, 2.0])
    with pytest.raises(ValueError, match="do not fall strictly"):
        sampler("DDIM", {}, [1.0, 2.0])
    for name, eta in (("EulerDiscrete", 0.5), ("DDPM", 1.0), ("DDIM", 1.5), ("DDIM", math.nan)):
        with pytest.raises(ValueError, match=f"eta lies in .* for {name}Scheduler"):
            sampler(name, {}, 5, eta=eta)


def test_noise_of_another_shape_or_kind_is_refused():
    run = sampler("DDIM", {}, 2)
    with pytest.raises(ValueError, match=r"shape \[b, \*\[1\]\], got \[3, 2\]"):
        run(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"got \[3, 1\] of torch.int64"):
        run(torch.zeros(3, 1, dtype=torch.long))


def test_an_answer_of_another_shape_is_refused():
    run = sampler("DDIM", {}, 2, lambda x, sigma, label=None: x[:, 0])
    with pytest.raises(ValueError, match=r"the denoiser returned \[3\] for samples \[3, 1\]"):
        run(torch.zeros(3, 1))


def test_samples_that_stop_being_finite_name_the_step():
    def denoiser(x, sigma, label=None):
        return x * (math.nan if float(sigma[0]) < 2 else 1)

    with pytest.raises(RunError, match=r"at step \d+ of 18 \(sigma 1\.\d+\)"):
        sampler("EDMEuler", {}, 18, denoiser)(unit_noise(4))


@pytest.mark.parametrize(("low", "high"), [(0.002, 80.0), (0.01, 10.0)])
def test_heun_scheduler_visits_the_karras_levels(low, high):
    scheduler = heun_scheduler(low, high)
    scheduler.set_timesteps(7)
    visited = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]]).double()
    torch.testing.assert_close(visited, karras_sigmas(7, low, high), rtol=1e-3, atol=0)


def test_heun_scheduler_takes_the_steps_of_our_heun():
    denoiser, noise = Counted(exact_denoiser()), unit_noise(200)
    expected = Heun(denoiser, noise.shape[1:], karras_sigmas(18))(noise)
    sampler = Scheduled(denoiser, heun_scheduler(), noise.shape[1:], 18)
    assert sampler.cost.calls == 35
    torch.testing.assert_close(sampler(noise), expected, rtol=0, atol=2e-4)


def test_heun_scheduler_refuses_levels_that_float32_betas_cannot_say():
    with pytest.raises(ValueError, match=r"0\.001 <= low"):
        heun_scheduler(low=1e-5)
