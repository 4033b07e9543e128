"""Runs `gan.py` several times, each time killing itself where it hurts most.

`python killed_while_writing.py FOLDER ARGUMENTS...` leaves one run in FOLDER for every place.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

from experiments.conftest import load

from hybridgen.cli import command
from hybridgen.evaluation import fit
from hybridgen.training import checkpoint


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def at(module, name, when, *, after=False):
    """Die at the first call of `module.name` for which `when(*args)` holds."""
    original = getattr(module, name)

    def call(*args, **kwargs):
        hit = when(*args)
        if hit and not after:
            die()
        result = original(*args, **kwargs)
        if hit:
            die()
        return result

    setattr(module, name, call)


def before_the_rename_of_the_second():
    at(os, "replace", lambda old, new: Path(new).name == "step-00000004")


def right_after_the_rename_of_the_second():
    at(os, "replace", lambda old, new: Path(new).name == "step-00000004", after=True)


def with_half_of_the_parts_written():
    at(
        checkpoint,
        "_write",
        lambda folder, name, part: folder.name == ".tmp-step-00000004" and name == "average",
    )


def before_the_first_is_whole():
    at(checkpoint, "flush", lambda path: True)


def in_the_middle_of_removing_an_old_one():
    def half(path, **_):
        if Path(path).name == "step-00000002":
            (Path(path) / "generator" / "config.json").unlink()
            die()
        original(path, **_)

    original, shutil.rmtree = shutil.rmtree, half


def before_the_settings_are_written():
    at(os, "replace", lambda old, new: Path(new).name == "config.yaml")


def between_the_weights_and_the_result():
    at(fit, "save_network", lambda network, folder, *_: folder.name == "discriminator")


def between_the_best_weights_and_their_row():
    at(fit, "save_network", lambda network, folder, *_: folder.name == "best", after=True)


PLACES = (
    before_the_rename_of_the_second,
    right_after_the_rename_of_the_second,
    with_half_of_the_parts_written,
    before_the_first_is_whole,
    in_the_middle_of_removing_an_old_one,
    before_the_settings_are_written,
    between_the_weights_and_the_result,
    between_the_best_weights_and_their_row,
)


def main(folder, argv):
    gan = load("gan")
    for place in PLACES:
        child = os.fork()
        if child == 0:
            place()
            os._exit(command(gan.main, gan.Gan, [*argv, "--out", f"{folder}/{place.__name__}"]))
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            sys.exit(f"{place.__name__} was never reached")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
