import math
import os
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedType, DynamoBackend
from torch.autograd.function import once_differentiable

from hybridgen.data.augment import twice_differentiable
from hybridgen.data.settings import AugmentSettings
from hybridgen.errors import InputError, RunError
from hybridgen.training.gan import GanTraining
from hybridgen.training.optim import check_finite, check_ranks_agree
from hybridgen.training.settings import AdversarialSettings, Cosine, RunSettings
from hybridgen.training.setup import (
    PATIENCE,
    accelerator_for,
    build_adversarial,
    validate_setup,
)

R1 = Cosine(start=0.3)


def state(**changes):
    """As much of an Accelerator as the guards look at."""
    plugin = SimpleNamespace(backend=changes.pop("backend", DynamoBackend.NO))
    fine = {
        "mixed_precision": "no",
        "distributed_type": DistributedType.NO,
        "num_processes": 1,
        "gradient_accumulation_steps": 1,
        "state": SimpleNamespace(dynamo_plugin=plugin),
    }
    return SimpleNamespace(**{**fine, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mixed_precision": "fp16"}, "'fp16' cannot be used.*choose 'no' or 'bf16'"),
        ({"mixed_precision": "fp8"}, "'fp8'"),
        ({"distributed_type": DistributedType.FSDP}, "FSDP takes one model at a time"),
        ({"distributed_type": DistributedType.DEEPSPEED}, "DEEPSPEED takes one model at a time"),
        ({"distributed_type": DistributedType.MEGATRON_LM}, "MEGATRON_LM takes one model"),
        ({"gradient_accumulation_steps": 2}, "set --training.accumulation instead"),
        ({"backend": DynamoBackend.INDUCTOR}, "'INDUCTOR' compiles the discriminator"),
        ({"num_processes": 3}, r"batch of 16 cannot be cut evenly over 3 process.*multiple of 3"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(players, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        validate_setup(state(**changes), GanTraining(batch=16), players()[1], R1)


@pytest.mark.parametrize("engine", ["NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_data_parallelism_in_either_precision_is_welcome(players, engine, precision):
    fine = state(distributed_type=DistributedType[engine], mixed_precision=precision)
    validate_setup(fine, GanTraining(batch=16, accumulation=4), players()[1], R1)


def test_a_compiled_discriminator_is_welcome_without_a_double_backward(players):
    compiled = state(backend=DynamoBackend.EAGER)
    config = GanTraining(batch=16)
    validate_setup(compiled, config, players(finite_difference=0.1)[1], R1)
    _, plain = players()
    validate_setup(compiled, config, plain, Cosine(start=0.0))
    plain.gp = 1.0
    with pytest.raises(InputError, match="double backward"):
        validate_setup(compiled, config, plain, Cosine(start=0.0))


def test_augmentation_with_exact_penalties_needs_a_torch_that_differentiates_it_twice(
    players, monkeypatch
):
    augmented = build_adversarial(
        players()[1].discriminator, AdversarialSettings(), AugmentSettings(strength=0.5)
    )
    if twice_differentiable():
        validate_setup(state(), GanTraining(batch=16), augmented, R1)
    resample = F.grid_sample

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, places):
            ctx.save_for_backward(x, places)
            return resample(x, places, align_corners=False)

        @staticmethod
        @once_differentiable
        def backward(ctx, gradient):
            return gradient, None

    monkeypatch.setattr(F, "grid_sample", lambda x, places, **_: Once.apply(x, places))
    with pytest.raises(InputError, match="does not differentiate the resampling"):
        validate_setup(state(), GanTraining(batch=16), augmented, R1)
    validate_setup(state(), GanTraining(batch=16), players()[1], R1)
    validate_setup(state(), GanTraining(batch=16), augmented, Cosine(start=0.0))


def test_a_batch_that_accumulation_cannot_cut_is_refused_before_training(train, training):
    with pytest.raises(InputError, match=r"over 1 process\(es\) x 3 accumulated part\(s\)"):
        next(train(training(accumulation=3)))


def test_the_accumulation_of_a_real_launcher_is_refused_before_training(train, training):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    with pytest.raises(InputError, match="half a batch"):
        next(train(training(), accelerator=accelerator))


def test_a_real_dynamo_backend_is_refused_before_training(train, training):
    accelerator = Accelerator(cpu=True, dynamo_backend="eager")
    with pytest.raises(InputError, match="--dynamo_backend no"):
        next(train(training(), accelerator=accelerator))


@pytest.mark.parametrize("late", ["r1", "r2"])
def test_a_penalty_that_only_begins_later_counts_from_the_start(train, training, late):
    none = {"r1": Cosine(start=0.0), "r2": Cosine(start=0.0)}
    config = training(**{**none, late: Cosine(start=0.0, end=0.1)})
    with pytest.raises(InputError, match="double backward"):
        next(train(config, accelerator=Accelerator(cpu=True, dynamo_backend="eager")))


@pytest.mark.parametrize("name", ["steps", "batch", "accumulation", "ema_half_life", "ema_ramp"])
def test_a_number_of_the_training_that_must_be_positive_is_refused_by_name(name):
    with pytest.raises(InputError, match=f"{name} must be a .*number in .* got 0"):
        GanTraining(**{name: 0})


def test_a_loss_that_is_not_finite_is_named_by_step_player_and_part():
    parts = {"total": math.nan, "adversarial": 0.3, "r1": math.inf, "r2": math.nan}
    with pytest.raises(RunError, match=r"discriminator's loss .*step 12: its part 'r1' is inf"):
        check_finite(parts, ["discriminator"], 12)
    with pytest.raises(RunError, match=r"generator's .*step 3: its part 'total' is nan"):
        check_finite({"total": math.nan}, ["generator"], 3)
    check_finite({"total": 1e30, "adversarial": -1.0}, ["discriminator"], 1)


class Everyone:
    """Two processes of which the other one holds `factor` times these gradients."""

    def __init__(self, factor):
        self.factor = factor

    def gather(self, x):
        return torch.cat([x, x * self.factor])


@pytest.mark.parametrize(("factor", "agree"), [(1.0, True), (1 + 1e-9, True), (1.001, False)])
def test_processes_that_disagree_on_the_gradients_are_found(factor, agree):
    model = torch.nn.Linear(2, 1)
    model(torch.ones(3, 2)).sum().backward()
    if agree:
        check_ranks_agree(Everyone(factor), model, "discriminator", 1)
    else:
        with pytest.raises(RunError, match="disagree on the discriminator's gradients at step 8"):
            check_ranks_agree(Everyone(factor), model, "discriminator", 8)


def test_gradients_that_are_not_numbers_count_as_disagreement():
    model = torch.nn.Linear(2, 1)
    (model(torch.ones(3, 2)).sum() * math.nan).backward()
    with pytest.raises(RunError, match="disagree"):
        check_ranks_agree(Everyone(1.0), model, "discriminator", 1)


@pytest.mark.parametrize("known", [True, False])
def test_bf16_on_a_processor_without_it_is_warned_of(tmp_path, monkeypatch, capsys, known):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: known)
    accelerator = accelerator_for(tmp_path, RunSettings(mixed_precision="bf16"))
    assert ("this processor has no bf16" in capsys.readouterr().err) is not known
    assert accelerator.init_handler.timeout == PATIENCE


def test_deterministic_algorithms_are_used_where_they_are_asked_for(monkeypatch, tmp_path):
    accelerator_for(tmp_path, RunSettings())
    assert not torch.are_deterministic_algorithms_enabled()
    for before, after in ((":0:0", ":4096:8"), (":16:8", ":16:8")):
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before)
        try:
            accelerator_for(tmp_path, RunSettings(deterministic=True))
            assert torch.are_deterministic_algorithms_enabled()
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == after
        finally:
            torch.use_deterministic_algorithms(False)
