import json
import math
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import Accelerator
from torch import nn

from hybridgen.errors import FailedElsewhere, InputError, Interrupted, RunError
from hybridgen.training.run import JsonLines, Run
from hybridgen.training.step import Step


@dataclass(frozen=True)
class Inner:
    rate: float = 1e-5
    path: Path = Path("a")


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    names: tuple[str, ...] = ("x", "y")
    inner: Inner = field(default_factory=Inner)
    out: Path | None = None


def step(number, losses=None, *, last=False):
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, number)
    return Step(number, losses or {}, model, {"model": model, "average": model}, last)


@dataclass(frozen=True)
class Plain:
    seed: int = 0
    out: Path | None = None


@pytest.fixture
def open_run():
    accelerator = Accelerator(cpu=True)
    return lambda folder, settings=None, **more: Run(
        folder, settings or Plain(), accelerator, **more
    )


def listing(folder):
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_a_new_run_writes_down_its_settings_but_not_its_folder(tmp_path, open_run):
    open_run(tmp_path / "a" / "b", Plain(seed=3, out=tmp_path))
    assert yaml.safe_load((tmp_path / "a" / "b" / "config.yaml").read_text()) == {"seed": 3}


def test_settings_of_every_kind_are_recognised_again(tmp_path, open_run):
    nested = Settings(inner=Inner(rate=3e-7, path="b"))
    with open_run(tmp_path, nested):
        pass
    with open_run(tmp_path, nested):
        pass


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, open_run):
    (tmp_path / "thesis.tex").write_text("x")
    before = listing(tmp_path)
    with pytest.raises(InputError, match=r"not empty and not a run .*choose another --out"):
        open_run(tmp_path)
    assert listing(tmp_path) == before


def test_what_a_kill_at_the_very_start_leaves_is_no_foreign_folder(tmp_path, open_run):
    (tmp_path / ".lock").touch()
    (tmp_path / ".tmp-config.yaml").write_text("see")
    with open_run(tmp_path):
        assert (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path, open_run, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file.* cannot be written \(.*\): choose another --out"):
        open_run(tmp_path / name)
    assert (tmp_path / "file").read_text() == "x"


def test_a_run_of_other_settings_is_refused_by_their_names(tmp_path, open_run):
    with open_run(tmp_path, Settings(seed=1, inner=Inner(path="a"))):
        pass
    before = listing(tmp_path)
    del before[".lock"]
    with pytest.raises(InputError, match=r"inner.rate was 1e-05 and is 0.1; seed was 1 and is 2"):
        open_run(tmp_path, Settings(seed=2, inner=Inner(rate=0.1, path="a")))
    assert before.items() <= listing(tmp_path).items()
    with open_run(tmp_path, Settings(seed=1, inner=Inner(path="a"))):
        pass  # and the refusal left no lock behind


def test_a_config_that_is_no_yaml_is_an_input_error(tmp_path, open_run):
    (tmp_path / "config.yaml").write_text("{a: [")
    with pytest.raises(InputError, match="damaged"):
        open_run(tmp_path)


def status_of_a_child(work):
    """The exit status of a forked process that does this: 2 for an `InputError`, else 0."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except InputError as error:
            os._exit(2 if "another process is working in" in str(error) else 3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_folder_is_worked_in_by_one_process_at_a_time(tmp_path, open_run):
    with open_run(tmp_path):
        assert status_of_a_child(lambda: open_run(tmp_path)) == 2
    assert status_of_a_child(lambda: open_run(tmp_path)) == 0


def test_resuming_goes_back_to_the_newest_checkpoint_in_weights_log_and_time(tmp_path, open_run):
    with open_run(tmp_path) as run:
        assert run.resume(step(0).state) == 0
        run.save(step(2))
        for number in (1, 2, 3):
            run.log_file.log({"loss": 1.0}, step=number)
        spent = run.seconds
    new = step(9)
    with open_run(tmp_path) as run:
        assert run.resume(new.state) == 2
        assert new.state["model"].weight.item() == 2
        assert [row["step"] for row in run.log_file.rows()] == [1, 2]
        assert 0 < run.seconds < spent + 60


@pytest.mark.parametrize("during", ["the step", "what comes after it"])
def test_what_was_due_after_a_step_is_done_again_on_resuming_from_it(tmp_path, open_run, during):
    stopped = step(7, {"loss": 0.25})
    with open_run(tmp_path) as run, pytest.raises(Interrupted):
        run.log_file.log(stopped.losses, step=stopped.number)
        if during == "the step":
            os.kill(os.getpid(), signal.SIGTERM)
        with run.between_steps(stopped, save=False):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
    seen = []
    with open_run(tmp_path) as run:
        run.resumed = lambda number, state: seen.append((number, state["average"].weight.item()))
        assert run.resume(step(0).state) == 7
    assert seen == [(7, 7.0)]
    assert run.log_file.rows() == [{"step": 7, "loss": 0.25}]


def test_a_first_process_that_fails_lets_the_others_go(tmp_path, open_run):
    run = open_run(tmp_path)

    def gather(failed):
        return torch.cat([failed, torch.ones_like(failed)])

    run.accelerator = SimpleNamespace(is_main_process=False, device="cpu", gather=gather)
    with pytest.raises(FailedElsewhere):
        run.lead(lambda: pytest.fail("the first process does it"))
    run.accelerator = SimpleNamespace(is_main_process=True, device="cpu", gather=lambda x: x)
    with pytest.raises(RunError, match="not finite"):
        run.lead(lambda: (_ for _ in ()).throw(RunError("not finite")))


def test_damaged_lines_of_a_log_do_not_stop_a_run_and_are_dropped(tmp_path, open_run, capsys):
    with open_run(tmp_path) as run:
        for number in (1, 2, 3):
            run.log_file.log({"loss": 1.0}, step=number)
            run.save(step(number))
    good = (tmp_path / "log.jsonl").read_bytes()
    lines = good.splitlines(keepends=True)
    for line in (b"[1]\n", b"{}\n", b'{"step": "2"}\n', b"\xff\n", b'{"step": 2, "a": [1]}\n'):
        (tmp_path / "log.jsonl").write_bytes(lines[0] + line + lines[2] + line)
        with open_run(tmp_path) as run:
            assert run.resume(step(0).state) == 3
        assert (tmp_path / "log.jsonl").read_bytes() == lines[0] + lines[2]
        said = capsys.readouterr().err
        assert "warning: " in said and "log.jsonl is damaged: line 2 (" in said
        assert ") and 1 more dropped" in said


@pytest.mark.parametrize("name", ["checkpoints", "samples", "log.jsonl", "result.json"])
def test_what_has_the_name_of_another_kind_is_refused_before_anything_is_done(
    tmp_path, open_run, name
):
    open_run(tmp_path).lock.close()
    (tmp_path / name).touch() if name in ("checkpoints", "samples") else (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name} is not what a run has under this name"):
        open_run(tmp_path)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_log_that_is_a_link_is_replaced_and_not_appended_to(tmp_path, open_run, link):
    (tmp_path / "outside").write_text("somebody's")
    with open_run(tmp_path / "run") as run:
        link(tmp_path / "outside", tmp_path / "run" / "log.jsonl")
        if link is os.symlink:
            with pytest.raises(OSError, match="symbolic links"):
                run.log_file.log({"loss": 1.0}, step=1)
        run.resume(step(0).state)
        run.log_file.log({"loss": 1.0}, step=1)
        assert run.log_file.rows() == [{"step": 1, "loss": 1.0}]
    assert (tmp_path / "outside").read_text() == "somebody's"


@pytest.mark.parametrize("kind", [InputError, RunError, KeyboardInterrupt])
def test_a_run_that_fails_before_there_is_anything_leaves_no_folder(tmp_path, open_run, kind):
    with pytest.raises(kind), open_run(tmp_path / "a" / "b"):
        raise kind("no")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(kind), open_run(tmp_path / "a") as run:
        run.log_file.log({"loss": 1.0}, step=1)
        raise kind("no")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        *(".lock", "config.yaml", "log.jsonl")
    }


def test_a_damaged_result_is_a_sentence(tmp_path, open_run):
    with open_run(tmp_path) as run:
        for content in ("", "[]", '{"kid": "much"}'):
            (tmp_path / "result.json").write_text(content)
            with pytest.raises(InputError, match=r"result.json is damaged .*choose another --out"):
                _ = run.result


def test_the_time_of_earlier_sittings_counts(tmp_path, open_run):
    with open_run(tmp_path) as run:
        run._seconds_before = 1_000.0
        run.save(step(1))
    with open_run(tmp_path) as run:
        run.resume(step(0).state)
        assert 1_000 <= run.seconds < 1_060


def test_without_a_checkpoint_the_log_begins_anew(tmp_path, open_run):
    with open_run(tmp_path) as run:
        run.log_file.log({"loss": 1.0}, step=1)
    with open_run(tmp_path) as run:
        assert run.resume(step(0).state) == 0
        assert run.log_file.rows() == []


def test_a_damaged_checkpoint_is_passed_over_and_that_is_said(tmp_path, open_run, capsys):
    with open_run(tmp_path) as run:
        for number in (1, 2):
            run.save(step(number))
    (tmp_path / "checkpoints" / "step-00000002" / "model.safetensors").write_bytes(b"")
    new = step(9)
    with open_run(tmp_path) as run:
        assert run.resume(new.state) == 1
    assert new.state["model"].weight.item() == 1
    said = capsys.readouterr().err.splitlines()
    assert "warning: " in said[0] and "step-00000002 is damaged" in said[0]
    assert "going on from step 1" in said[1]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, open_run):
    with open_run(tmp_path / "a", Plain(seed=1)) as run:
        run.save(step(1))
    with open_run(tmp_path / "b", Plain(seed=2)):
        pass
    os.rename(tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints")
    new = step(9)
    with (
        open_run(tmp_path / "b", Plain(seed=2)) as run,
        pytest.raises(InputError, match=r"was written with another config .*choose another --out"),
    ):
        run.resume(new.state)
    assert new.state["model"].weight.item() == 9


def test_the_global_random_numbers_go_on_where_they_were(tmp_path, open_run):
    with open_run(tmp_path) as run:
        torch.manual_seed(4)
        for number in (1, 2):
            torch.rand(3)
            run.save(step(number))
        expected = torch.rand(5)
    torch.manual_seed(0)
    with open_run(tmp_path) as run:
        run.resume(step(0).state)
        assert torch.equal(torch.rand(5), expected)


def test_a_step_is_saved_once_and_two_are_kept(tmp_path, open_run):
    with open_run(tmp_path) as run:
        for number in range(1, 6):
            run.save(step(number))
        folders = sorted((tmp_path / "checkpoints").iterdir())
        assert [f.name[-1] for f in folders] == ["4", "5"]
        before = listing(tmp_path)
        run.save(step(5))
        assert listing(tmp_path) == before


def test_the_result_is_flat_and_knows_no_number_that_is_not_finite(tmp_path, open_run):
    with open_run(tmp_path) as run:
        assert run.result is None
        run.finish({"kid": 0.5, "steps": 3, "coverage": math.nan, "x": math.inf})
        expected = {"kid": 0.5, "steps": 3, "coverage": None, "x": None}
        assert run.result == expected
    assert json.loads((tmp_path / "result.json").read_text()) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_a_step_waits_for_its_end_then_saves_and_leaves(tmp_path, open_run, number):
    done = []
    with open_run(tmp_path) as run:
        os.kill(os.getpid(), number)
        done.append("step")
        with (
            pytest.raises(Interrupted, match="stopped and saved at step 7") as stop,
            run.between_steps(step(7), save=False),
        ):
            done.append("body")
    assert done == ["step"] and stop.value.signal == number
    assert (tmp_path / "checkpoints" / "step-00000007").is_dir()


def test_a_signal_between_steps_ends_the_body_at_once_saves_and_leaves(tmp_path, open_run):
    started = time.monotonic()
    with (
        open_run(tmp_path) as run,
        pytest.raises(Interrupted, match="saved at step 7"),
        run.between_steps(step(7), save=False),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    assert time.monotonic() - started < 10
    assert (tmp_path / "checkpoints" / "step-00000007").is_dir()


def test_a_step_is_saved_before_the_body_when_it_is_due_and_not_otherwise(tmp_path, open_run):
    with open_run(tmp_path) as run:
        for number, due in ((1, False), (2, True), (3, False)):
            with run.between_steps(step(number), save=due):
                assert (tmp_path / "checkpoints").exists() == (number > 1)
        assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


@pytest.mark.parametrize(("saved", "said"), [(0, "none yet"), (4, "step 4")])
def test_a_failure_names_the_last_good_checkpoint(tmp_path, open_run, saved, said):
    with (
        pytest.raises(RunError, match=rf"it broke \(last good checkpoint: {said}\)"),
        open_run(tmp_path) as run,
    ):
        if saved:
            run.save(step(saved))
        raise RunError("it broke")


def test_a_checkpoint_of_other_data_or_precision_is_refused(tmp_path, open_run):
    with open_run(tmp_path, facts={"examples": 1_500}) as run:
        run.save(step(1))
    with (
        open_run(tmp_path, facts={"examples": 1_400}) as run,
        pytest.raises(InputError, match=r"another examples \(1500, now 1400\)"),
    ):
        run.resume(step(0).state)


@dataclass(frozen=True)
class Data:
    path: str = "photos"
    identity: str | None = "abc"
    workers: int = 2
    resolution: int = 8


@dataclass(frozen=True)
class Training:
    accumulation: int = 1
    batch: int = 8


@dataclass(frozen=True)
class Whole:
    data: Data = field(default_factory=Data)
    training: Training = field(default_factory=Training)
    threads: int | None = None
    save_every: int = 10
    out: Path | None = None


@pytest.mark.parametrize(
    "free",
    [
        {"threads": 1, "save_every": 3},
        {"data": Data(path="/moved/photos", workers=0)},
        {"training": Training(accumulation=4)},
    ],
)
def test_settings_that_change_no_result_may_change_and_are_written_down(
    tmp_path, open_run, free, capsys
):
    with open_run(tmp_path, Whole()) as run:
        run.save(step(3))
    with open_run(tmp_path, Whole(**free)) as run:
        assert run.resume(step(0).state) == 3
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == json.loads(
        json.dumps(run.config)
    )
    warned = "4: the result is not the same bit for bit" in capsys.readouterr().err
    assert warned == ("training" in free)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"data": Data(identity="abd")}, "a run on other examples"),
        ({"data": Data(path="other", identity="abd")}, "a run on other examples"),
        ({"data": Data(resolution=9)}, "data.resolution was 8 and is 9"),
        ({"training": Training(batch=9)}, "training.batch was 8 and is 9"),
    ],
)
def test_settings_that_change_the_result_may_not_change(tmp_path, open_run, other, words):
    with open_run(tmp_path, Whole()):
        before = listing(tmp_path)
    with pytest.raises(InputError, match=words):
        open_run(tmp_path, Whole(**other))
    assert listing(tmp_path) == before


def test_data_of_no_known_identity_is_known_by_its_path(tmp_path, open_run):
    with open_run(tmp_path, Whole(data=Data(identity=None))):
        pass
    with pytest.raises(InputError, match=r"data.path was photos and is other"):
        open_run(tmp_path, Whole(data=Data(path="other", identity=None)))


def test_a_run_inside_the_folder_of_its_data_is_refused(tmp_path, open_run):
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "a" / "run", tmp_path / "link" / "b"):
        with pytest.raises(InputError, match="lies inside the data folder"):
            open_run(folder, Whole(data=Data(path=str(tmp_path))))
    assert listing(tmp_path).keys() == {"link"}


def test_asking_twice_leaves_at_once(tmp_path, open_run):
    with open_run(tmp_path), pytest.raises(KeyboardInterrupt) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert not isinstance(stop.value, Interrupted)


def test_a_run_gives_the_signals_back_as_they_were(tmp_path, open_run):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with open_run(tmp_path):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_every_line_is_one_object_that_begins_with_the_step(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    log.log({"discriminator": 1.5}, step=1)
    log.log({"generator": 2}, step=2)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert lines == ['{"step": 1, "discriminator": 1.5}', '{"step": 2, "generator": 2}']
    assert log.rows() == [json.loads(line) for line in lines]


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    log.log({"a": math.nan, "b": -math.inf, "c": 0.0}, step=1)
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1, "a": null, "b": null, "c": 0.0}\n'


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "a": 2.0}\n{"step": 2, "a"')
    assert JsonLines(path).rows() == [{"step": 1, "a": 2.0}]


def test_going_back_drops_the_lines_of_later_steps_and_the_half_line(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JsonLines(path)
    for step in (1, 2, 3):
        log.log({"a": 1.0}, step=step)
    path.write_text(path.read_text() + '{"step"')
    log.forget_after(2)
    log.log({"a": 5.0}, step=3)
    assert [row["step"] for row in log.rows()] == [1, 2, 3]
    assert log.rows()[-1]["a"] == 5.0
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_log_that_is_not_there_has_no_rows(tmp_path):
    assert JsonLines(tmp_path / "log.jsonl").rows() == []
