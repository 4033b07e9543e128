import json
import math

from hybridgen.training.tracking import JsonLines


def test_every_line_is_one_object_that_begins_with_the_step(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    log.log({"critic": 1.5}, step=1)
    log.log({"generator": 2}, step=2)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert lines == ['{"step": 1, "critic": 1.5}', '{"step": 2, "generator": 2}']
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
