import copy
import json
import math
import os
import re

import pytest
import torch
from limits import files_of_at_most
from safetensors.torch import load_file
from torch import nn

from hybridgen.errors import RunError
from hybridgen.files import write_atomically
from hybridgen.networks.build import load_network
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
from hybridgen.training import checkpoint
from hybridgen.training.checkpoint import save_network
from hybridgen.training.optim import EMA

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Held:
    """Anything with a state."""

    def __init__(self, state=None):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def state(seed=0):
    """A generator, its average and an optimiser that has moved."""
    torch.manual_seed(seed)
    model = MlpGenerator(width=8, depth=1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, betas=(0.0, 0.9), fused=True)
    model(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    average = EMA(model, 10)
    average.update(seen=4, images=4)
    return {"generator": model, "average": average.module, "optimizer": optimizer}


def tree(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_checkpoint_gives_back_models_and_optimisers_bit_for_bit(tmp_path):
    old, new = state(0), state(1)
    checkpoint.write(tmp_path, 7, old, seconds=1.5)
    found, complaints = checkpoint.newest(tmp_path)
    assert found is not None and complaints == []
    assert found.step == 7 and found.manifest["seconds"] == 1.5
    found.restore(new)
    for a, b in zip(old["generator"].parameters(), new["generator"].parameters(), strict=True):
        assert torch.equal(a, b)
    before, after = old["optimizer"].state_dict(), new["optimizer"].state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert after["param_groups"][0]["betas"] == (0.0, 0.9)
    assert list(after["state"]) == [0, 1, 2, 3]
    for i, moments in before["state"].items():
        assert all(torch.equal(moments[k], after["state"][i][k]) for k in moments)
    assert isinstance(load_network(found.path / "average"), MlpGenerator)


def test_keys_that_are_numbers_and_tuples_and_nothing_survive(tmp_path):
    tensor = torch.arange(3)
    kept = {1: (1.5, (2, None)), "a": [tensor, {"b": True}], 0.1: -math.pi, "e": {}, "s": ()}
    checkpoint.write(tmp_path, 1, {"held": Held(kept)})
    held = Held()
    checkpoint.newest(tmp_path)[0].restore({"held": held})
    assert torch.equal(held.state["a"].pop(0), tensor)
    kept["a"].pop(0)
    assert held.state == kept
    assert [type(k) for k in held.state] == [int, str, float, str, str]


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path):
    path = checkpoint.write(tmp_path, 1, state())
    assert {p.suffix for p in path.rglob("*") if p.is_file()} == {".json", ".safetensors"}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["generator", "optimizer"])
def test_a_weight_that_is_not_finite_is_never_saved(tmp_path, where, bad):
    good, worse = state(), state()
    checkpoint.write(tmp_path, 1, good)
    before = tree(tmp_path)
    if where == "generator":
        with torch.no_grad():
            next(worse["generator"].parameters()).flatten()[0] = bad
    else:
        worse["optimizer"].state_dict()["state"][0]["exp_avg"].flatten()[0] = bad
    with pytest.raises(RunError, match=f"{where} is not finite any more .*the last good"):
        checkpoint.write(tmp_path, 2, worse)
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def change(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda p: change(p / "generator" / WEIGHTS), "generator/.*safetensors has changed"),
        (lambda p: change(p / "optimizer.json"), "optimizer.json has changed"),
        (lambda p: (p / "average" / WEIGHTS).unlink(), "No such file"),
        (lambda p: (p / "manifest.json").unlink(), "No such file"),
        (lambda p: (p / "manifest.json").write_text('{"schema": 1, "step"'), "Expecting"),
        (lambda p: (p / "manifest.json").write_text('{"schema": 0}'), "schema 0, expected 1"),
        (lambda p: (p / "manifest.json").write_text("[]"), "indices"),
        (lambda p: (p / "manifest.json").write_bytes(b"\xff\x00"), "decode"),
        (lambda p: os.truncate(p / "optimizer.safetensors", 10), "optimizer.safetensors has"),
    ],
)
def test_of_a_damaged_checkpoint_the_one_before_is_used_and_that_is_said(
    tmp_path, damage, sentence
):
    first, second, new = state(0), state(1), state(2)
    checkpoint.write(tmp_path, 9, first)
    damage(checkpoint.write(tmp_path, 10, second))
    found, (complaint,) = checkpoint.newest(tmp_path)
    assert found is not None and found.step == 9
    assert "step-00000010 is damaged" in complaint and "\n" not in complaint
    assert re.search(sentence, complaint)
    found.restore(new)
    for a, b in zip(first["generator"].parameters(), new["generator"].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_newest_checkpoint_is_the_one_of_the_latest_step(tmp_path):
    for step in (8, 99, 100):
        checkpoint.write(tmp_path, step, {"held": Held({})})
    found, complaints = checkpoint.newest(tmp_path)
    assert found is not None and (found.step, complaints) == (100, [])


def test_a_checkpoint_under_another_name_is_not_believed(tmp_path):
    for step in (1, 2):
        checkpoint.write(tmp_path, step, {"held": Held({})})
    os.rename(tmp_path / "step-00000002", tmp_path / "step-00000005")
    found, (complaint,) = checkpoint.newest(tmp_path)
    assert found is not None and found.step == 1
    assert "its manifest is of step 2" in complaint


def test_when_no_checkpoint_is_intact_nothing_is_overwritten(tmp_path):
    change(checkpoint.write(tmp_path, 1, {"held": Held({})}) / "held.json")
    with pytest.raises(RunError, match=r"held.json has changed.*put a good one back"):
        checkpoint.newest(tmp_path)


def test_a_checkpoint_of_a_newer_version_is_not_passed_over(tmp_path):
    for step in (1, 2):
        checkpoint.write(tmp_path, step, {"held": Held({})})
    manifest = tmp_path / "step-00000002" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(RunError, match=r"step-00000002 was written by a newer version \(schema 2"):
        checkpoint.newest(tmp_path)


def test_a_checkpoint_that_may_not_be_read_is_not_passed_over(tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoint.write(tmp_path, step, {"held": Held({})})

    def read_text(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoint, "read_text", read_text)
    with pytest.raises(RunError, match=r"step-00000002 may not be read \(.*have its owner"):
        checkpoint.newest(tmp_path)


def test_a_manifest_without_the_facts_that_are_needed_is_damaged(tmp_path):
    checkpoint.write(tmp_path, 1, {"held": Held({})}, seconds=1.0, world=2)
    checkpoint.write(tmp_path, 2, {"held": Held({})}, seconds=1.0)
    found, (complaint,) = checkpoint.newest(tmp_path, ("seconds", "world"))
    assert found is not None and (found.step, found.manifest["world"]) == (1, 2)
    assert "its manifest is not complete" in complaint


def test_writing_removes_what_claims_to_be_newer_and_is_not_intact(tmp_path):
    checkpoint.write(tmp_path, 4, {"held": Held({})})
    change(checkpoint.write(tmp_path, 9, {"held": Held({})}) / "held.json")
    checkpoint.write(tmp_path, 6, {"held": Held({})})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000006"]


@pytest.mark.parametrize(
    "fields",
    [
        {"sha256": {"../../secret": "0"}},
        {"sha256": {"/etc/hostname": "0"}},
        {"seconds": "many"},
        {"world": None},
        {"parts": "held"},
    ],
)
def test_a_manifest_whose_fields_are_something_else_is_damaged(tmp_path, fields):
    root = tmp_path / "checkpoints"
    for step in (1, 2):
        checkpoint.write(root, step, {"held": Held({})}, seconds=1.0, world=2)
    path = root / "step-00000002" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    newest, (complaint,) = checkpoint.newest(root)
    assert newest is not None and newest.step == 1 and "step-00000002 is damaged" in complaint


@pytest.mark.parametrize("outline", [{"tensor": "x"}, {"map": [1]}, {"a": 1, "b": 2}, {"map": {}}])
def test_a_checkpoint_that_was_written_to_deceive_is_a_run_error(tmp_path, outline):
    path = checkpoint.write(tmp_path, 1, {"held": Held({})})
    (path / "held.json").write_text(json.dumps(outline))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sha256"]["held.json"] = checkpoint._sha256(path / "held.json")
    (path / "manifest.json").write_text(json.dumps(manifest))
    newest, _ = checkpoint.newest(tmp_path)
    with pytest.raises(RunError, match=r"holds another held than this run needs"):
        newest.restore({"held": nn.BatchNorm1d(3)})


def test_only_checkpoints_are_removed(tmp_path):
    for name in ("step-notes", "step-00000001.txt"):
        (tmp_path / name).mkdir()
    for step in range(1, 5):
        checkpoint.write(tmp_path, step, {"held": Held({})})
    assert {"step-notes", "step-00000001.txt"} < {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_weights_can_be_read_by_whom_the_umask_lets(tmp_path, mask):
    before = os.umask(mask)
    try:
        save_network(MlpGenerator(width=4, depth=1), tmp_path / "generator")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "generator").iterdir()}
    assert modes == {0o666 & ~mask}


def test_without_checkpoints_there_is_none_and_nothing_to_complain_about(tmp_path):
    assert checkpoint.newest(tmp_path / "checkpoints") == (None, [])


def test_only_the_newest_are_kept_and_what_a_killed_write_left_is_swept_away(tmp_path):
    (tmp_path / ".tmp-3").mkdir()
    (tmp_path / ".tmp-3" / "half").write_text("x")
    for step in range(1, 5):
        checkpoint.write(tmp_path, step, {"held": Held({})})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_a_damaged_checkpoint_is_overwritten_when_its_step_comes_again(tmp_path):
    (checkpoint.write(tmp_path, 1, state(0)) / "manifest.json").unlink()
    checkpoint.write(tmp_path, 1, state(1))
    assert checkpoint.newest(tmp_path)[1] == []


@pytest.mark.parametrize("limit", [200, 1_500, 4_000])
def test_on_a_full_disk_nothing_is_half_written_and_older_checkpoints_stay(tmp_path, limit):
    checkpoint.write(tmp_path, 1, state())
    before = tree(tmp_path)
    huge = {"generator": MlpGenerator(width=64, depth=2), "held": Held({"x": torch.ones(9_999)})}
    with files_of_at_most(limit), pytest.raises(RunError) as caught:
        checkpoint.write(tmp_path, 2, huge)
    assert "checkpoint of step 2 could not be written" in str(caught.value)
    assert "File too large" in str(caught.value)
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_checkpoint_of_other_parts_is_refused_before_anything_is_loaded(tmp_path):
    checkpoint.write(tmp_path, 1, state(0))
    new = state(1)
    weights = [p.clone() for p in new["generator"].parameters()]
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    with pytest.raises(RunError, match="start again in an empty folder"):
        found.restore({**new, "discriminator": MlpDiscriminator(width=8, depth=1)})
    assert all(map(torch.equal, weights, new["generator"].parameters()))


def test_the_manifest_names_every_other_file(tmp_path):
    path = checkpoint.write(tmp_path, 1, state())
    files = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest["sha256"]) == files - {"manifest.json"}


def test_a_module_of_plain_torch_is_saved_too(tmp_path):
    old, new = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    old(torch.randn(5, 3))
    path = checkpoint.write(tmp_path, 1, {"norm": old})
    checkpoint.newest(tmp_path)[0].restore({"norm": new})
    assert torch.equal(old.running_mean, new.running_mean)
    assert new.num_batches_tracked == 1
    assert load_file(path / "norm.safetensors")["norm.num_batches_tracked"].dtype == torch.int64


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "before")
    write_atomically(path, b"after")
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_on_a_full_disk_the_old_file_stays(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "before")
    with files_of_at_most(1_000), pytest.raises(OSError, match="too large"):
        write_atomically(path, "x" * 2_000)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_on_a_full_disk_the_old_weights_stay(tmp_path):
    old = MlpGenerator(width=4, depth=1)
    save_network(old, tmp_path / "generator")
    before = {path: path.read_bytes() for path in (tmp_path / "generator").iterdir()}
    sentence = r"generator could not be written .*make room"
    with files_of_at_most(1_000), pytest.raises(RunError, match=sentence):
        save_network(MlpGenerator(width=64, depth=1), tmp_path / "generator")
    assert {path: path.read_bytes() for path in (tmp_path / "generator").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["generator"]


def test_saved_weights_take_the_place_of_older_ones(tmp_path):
    for width in (4, 8):
        save_network(MlpGenerator(width=width, depth=1), tmp_path / "generator")
    assert MlpGenerator.from_pretrained(tmp_path / "generator").config["width"] == 8


DAMAGED_OPTIMISERS = {
    "a shape": lambda s: s["state"][0].update(exp_avg=torch.zeros(3, 3)),
    "a type": lambda s: s["state"][0].update(exp_avg_sq=torch.zeros(4, 3, dtype=torch.int64)),
    "a step of several": lambda s: s["state"][0].update(step=torch.zeros(2)),
    "a weight that is not there": lambda s: s["state"].update({9: s["state"][0]}),
    "another kind": lambda s: s["param_groups"][0].update(amsgrad=True),
    "words": lambda s: s["param_groups"][0].update(weight_decay="x"),
    "not finite": lambda s: s["param_groups"][0].update(lr=math.nan),
    "fewer settings": lambda s: s["param_groups"][0].pop("eps"),
    "other weights": lambda s: s["param_groups"][0].update(params=[0]),
    "another group": lambda s: s["param_groups"].append(s["param_groups"][0]),
}


@pytest.mark.parametrize("damage", DAMAGED_OPTIMISERS)
def test_an_optimiser_of_other_shapes_or_kinds_is_not_loaded(tmp_path, damage):
    model = torch.nn.Linear(3, 4)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    checkpoint.write(tmp_path / "good", 1, {"optimizer": Held(copy.deepcopy(state))})
    DAMAGED_OPTIMISERS[damage](state)
    checkpoint.write(tmp_path / "bad", 1, {"optimizer": Held(state)})
    good, bad = (checkpoint.newest(tmp_path / name)[0] for name in ("good", "bad"))
    with pytest.raises(RunError, match="holds another optimizer than this run needs"):
        bad.restore({"optimizer": optimizer})
    good.restore({"optimizer": optimizer})
