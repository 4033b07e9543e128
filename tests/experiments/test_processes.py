"""Commands that start others, and what is left of those when they end in any way."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest
import torch
from experiments.conftest import load

from hybridgen.errors import Interrupted, resource_sentence
from hybridgen.training.settings import OptimSettings
from hybridgen.training.signals import Signals

COMMAND = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from hybridgen.cli import command, start_command

@dataclass
class Nothing:
    pass

def work(settings):
    Path(sys.argv[1]).write_text(str(__import__("os").getpid()))
    if len(sys.argv) > 2:
        start_command([sys.executable, __file__, sys.argv[2]])
    time.sleep(60)

sys.exit(command(work, Nothing, []))
"""


def gone(pid, within=10.0):
    """Whether a process ends in time."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def appears(path):
    end = time.monotonic() + 90
    while not (path.exists() and path.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    return int(path.read_text())


def test_a_command_ends_with_the_command_that_started_it_even_if_that_was_killed(tmp_path):
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    parent = subprocess.Popen([sys.executable, script, tmp_path / "parent", tmp_path / "child"])
    child = appears(tmp_path / "child")
    assert not gone(child, within=0.5)
    parent.kill()
    parent.wait()
    assert gone(child)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_seeds_that_are_stopped_stop_their_trainings(tmp_path, monkeypatch, number):
    seeds, started = load("seeds"), []

    def start(call, **options):
        started.append(subprocess.Popen(["sleep", "60"]))
        return started[-1]

    monkeypatch.setattr(seeds, "start_command", start)
    monkeypatch.setattr(seeds, "PASSED_ON", [], raising=False)
    Timer(0.5, os.kill, (os.getpid(), number)).start()
    with pytest.raises(Interrupted) as stop:
        seeds.main(seeds.Seeds(seeds=5, jobs=2, out=tmp_path))
    assert stop.value.signal == number
    assert len(started) == 2 and all(child.poll() == -signal.SIGTERM for child in started)
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_hangup_asks_to_stop_unless_it_is_ignored_as_under_nohup():
    signals = Signals(accelerator=Alone())
    with signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received(1) == signal.SIGHUP
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals(accelerator=Alone()) as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received(1) == 0
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Alone:
    num_processes = 1


HANGUP = """
import os, signal, sys
from hybridgen.training.signals import Signals

class Alone:
    num_processes = 1

with Signals(Alone()) as signals:
    sys.stderr.write("ready")
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGHUP)
    sys.stderr.write("still here\\n")
    sys.stderr.flush()
    sys.exit(signals.received(1))
"""


def test_a_signal_that_comes_while_processes_agree_is_not_lost():
    class Pair:
        num_processes, device = 2, "cpu"

        def gather(self, report):
            report = torch.cat([report, torch.zeros_like(report)])
            os.kill(os.getpid(), signal.SIGTERM)
            return report

    with Signals(Pair()) as signals:
        assert signals.received(1) == 0
        Pair.gather = lambda self, report: report
        assert signals.received(2, now=True) == signal.SIGTERM
        assert signals.received(1_000) == signal.SIGTERM


def test_a_terminal_that_is_gone_does_not_end_what_still_has_to_be_saved():
    leader, terminal = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", HANGUP],
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    assert os.read(leader, 100) == b"ready"
    os.close(leader)
    child.stdin.close()
    assert child.wait(60) == signal.SIGHUP


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "a batch of 64 in 2 part(s): raise --training.accumulation"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "a batch of 64 in 2 part(s)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "lower --training.batch"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."), "--data.workers"),
        (RuntimeError("[pair.cc:547] Connection closed by peer [::1]:4"), "another process of"),
        (RuntimeError("NCCL communicator was aborted on rank 1."), "another process of this run"),
        (
            RuntimeError(
                "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation"
            ),
            "no deterministic algorithm here (adaptive_avg_pool2d_backward_cuda does not",
        ),
        (
            AssertionError(
                "expected size 64==64, stride 49==1\nError in op: torch.ops.aten.convolution"
            ),
            "(expected size 64==64, stride 49==1): leave --training.compile false",
        ),
    ],
)
def test_memory_and_lost_processes_are_said_in_a_sentence_that_helps(error, sentence):
    said = resource_sentence(error, OptimSettings(batch=64, accumulation=2))
    assert sentence in said and len(said) <= 300 and "\n" not in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("No working C++ compiler found in cpp.cxx: None\nmore", "failed (No working C++ compiler"),
        ("Failed to find C compiler. Please specify via CC", "--training.compile false"),
        ("Cannot find a working triton installation", "and Triton on a GPU"),
        ("", None),
        ("mat1 and mat2 shapes cannot be multiplied; see torch.compiler.disable", None),
    ],
)
def test_a_compiler_that_is_missing_is_told_from_other_errors_of_compiling(text, sentence):
    class CompileError(RuntimeError):
        __module__ = "torch._inductor.exc"

    words = resource_sentence(CompileError(text), None)
    assert words is None if sentence is None else sentence in words


def test_other_errors_keep_their_traceback():
    assert resource_sentence(RuntimeError("shape mismatch"), None) is None
    assert resource_sentence(AssertionError("in op"), None) is None
