"""Hostile settings for every script: one sentence and status 2, or all is well."""

import importlib
import sys

import pytest
from experiments.conftest import EXPERIMENTS

from hybridgen.errors import InputError


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    yield importlib.import_module("fuzz")
    del sys.modules["fuzz"]


def test_hostile_settings_get_one_sentence_and_leave_nothing(script, tmp_path):
    faults = [fault for fault in script.fuzz(80, 0, tmp_path) if fault]
    assert not faults, "\n".join(map(str, faults))


def test_a_traceback_a_late_refusal_and_a_file_left_behind_are_faults(
    script, tmp_path, monkeypatch
):
    def broken(settings):
        raise KeyError("x")

    def untidy(settings):
        (tmp_path / "left").write_text("x")
        raise script.Reached

    def late(settings):
        from hybridgen.training.run import Run

        with Run(tmp_path, settings, None):
            raise InputError("too late")

    monkeypatch.setattr(script, "inputs", lambda count, seed: iter([("gan", [])]))
    for main, sentence in ((broken, "KeyError"), (late, "too late"), (untidy, "it left")):
        monkeypatch.setattr("gan.main", main)
        (fault,) = script.fuzz(1, 0, tmp_path)
        assert sentence in fault.what
