"""Checkpoints: directories that are there whole or not at all.

A checkpoint is written under a temporary name, flushed to disk, and renamed once. Its manifest
lists the SHA-256 of every file, so a damaged one is recognised, and the one before is used.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hybridgen.errors import RunError, reason
from hybridgen.files import Number, parse, read_text, remove

SCHEMA = 1
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_FIELDS = {"parts": list, "seconds": Number, "world": int}
"""Of a manifest; others must equal what they are now."""


class RandomState:
    """torch's global generators of all processes; looks like a module to a checkpoint."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._cuda = accelerator.device.type == "cuda"
        self._collected: dict[str, Tensor] = {}

    def collect(self) -> None:
        """Gather the states `[processes n]`; every process must call this before a save."""
        states = {"cpu": torch.get_rng_state()}
        if self._cuda:
            states["cuda"] = torch.cuda.get_rng_state()
        device = self._accelerator.device
        gathered = {k: self._accelerator.gather(v[None].to(device)) for k, v in states.items()}
        self._collected = {name: torch.as_tensor(value).cpu() for name, value in gathered.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """What was collected last."""
        return self._collected

    def load_state_dict(self, states: dict[str, Tensor]) -> None:
        """Go on from this process's row; a process that had none keeps its own seed."""
        rank = self._accelerator.process_index
        if rank >= len(states["cpu"]):
            return
        torch.set_rng_state(states["cpu"][rank])
        if self._cuda and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"][rank])


@contextmanager
def _replacing(folder: Path, what: str) -> Iterator[Path]:
    """A folder to fill, which then takes the place of `folder`: whole, or not at all."""
    temporary = folder.with_name(f".tmp-{folder.name}")
    earlier = folder.with_name(f".old-{folder.name}")
    remove(temporary)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        mode = temporary.stat().st_mode & 0o666  # safetensors makes files that only we can read
        for path in (*temporary.rglob("*"), temporary):
            if path.is_file():
                with suppress(OSError):  # some file systems have no modes
                    path.chmod(mode)
            flush(path)
        if folder.is_symlink() or folder.exists():
            remove(earlier)
            os.replace(folder, earlier)
        os.replace(temporary, folder)
        flush(folder.parent)
        remove(earlier)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{what} could not be written to {folder.parent} ({error}): make room and run the same "
            "command again; it goes on from the last good checkpoint"
        ) from error
    finally:
        remove(temporary)


def save_network(network: Any, folder: Path, name: str = "") -> None:
    """Save a network by its `save_pretrained` as `folder`, in place of an earlier one.

    Args:
        name: of a folder in it that the network goes into instead.

    Raises:
        RunError: it cannot be written; an earlier one is as it was.
    """
    with _replacing(folder, folder.name) as temporary:
        network.save_pretrained(temporary / name)


def flush(path: Path) -> None:
    """Have a file or a folder's listing reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were found as they were written."""

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load every object of `state` from its file here.

        Raises:
            RunError: the checkpoint holds other parts than `state`.
        """
        if sorted(state) != self.manifest["parts"]:
            raise RunError(
                f"{self.path} holds {self.manifest['parts']} and this run needs {sorted(state)}: "
                "it was written by another version, so start again in an empty folder"
            )
        for name, part in state.items():
            try:
                saved = _read(self.path, name)
                if hasattr(part, "param_groups"):
                    _check_optimizer(part, saved)
                part.load_state_dict(saved)
            except Exception as error:  # its hashes are right, so it was written that way
                why = reason(error)[:100]
                raise RunError(
                    f"{self.path} holds another {name} than this run needs ({why}): "
                    "put a good checkpoint back, or choose another --out to start again"
                ) from error


def write(root: Path, step: int, state: Mapping[str, Any], **facts: Any) -> Path:
    """Write `state` as `root/step-N` and remove all but the newest two checkpoints.

    Args:
        state: name -> object with `state_dict`; a network with settings is saved by its
            `save_pretrained`, so that `from_pretrained` can read it here.
        facts: what else the manifest says; JSON.

    Raises:
        RunError: nothing was written: the disk is full, or a weight is not finite. Older
            checkpoints are as they were.
    """
    final = root / _name(step)
    for stale in (*root.glob(".tmp-*"), *root.glob(".old-*")):  # of a process that was killed
        remove(stale)
    # There may be a damaged one already, or the step is reached twice.
    with _replacing(final, f"the checkpoint of step {step}") as temporary:
        for name, part in state.items():
            _write(temporary, name, part)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        hashes = {str(path.relative_to(temporary)): _sha256(path) for path in files}
        manifest = {"schema": SCHEMA, "step": step, "parts": sorted(state), "sha256": hashes}
        (temporary / "manifest.json").write_text(json.dumps(manifest | facts, indent=1))
    # A checkpoint of a later step goes too: it is damaged, for a run resumes from its newest good
    # one, and would be kept in place of an older one that is whole.
    folders = _folders(root)
    older = [path for path in folders if path.name < final.name]
    for path in {*folders} - {final, *older[-1:]}:
        remove(path)
    return final


def newest(root: Path, facts: Iterable[str] = ()) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is intact, and one sentence for each newer one that is not.

    Raises:
        RunError: there are checkpoints and none can be read: starting over would overwrite them;
            or one is of a newer version, or somebody else's.
    """
    complaints, first = [], ""
    for path in reversed(_folders(root)):
        try:
            manifest = parse(read_text(path / "manifest.json"))
            if isinstance(manifest["schema"], int) and manifest["schema"] > SCHEMA:
                raise RunError(
                    f"{path} was written by a newer version (schema {manifest['schema']}, this one "
                    f"reads {SCHEMA}): go on with that version, or choose another --out"
                )
            if manifest["schema"] != SCHEMA:
                raise ValueError(f"schema {manifest['schema']}, expected {SCHEMA}")
            if path.name != _name(manifest["step"]):
                raise ValueError(f"its manifest is of step {manifest['step']}")
            files = {str(f.relative_to(path)): f for f in path.rglob("*") if f.is_file()}
            for name, hash in manifest["sha256"].items():
                if name not in files:
                    raise ValueError(f"No such file: {name}")
                if _sha256(files[name]) != hash:
                    raise ValueError(f"{name} has changed")
            if not {"parts", *facts} <= manifest.keys():
                raise ValueError("its manifest is not complete")
            for name, kind in _FIELDS.items():
                if name in manifest and not isinstance(manifest[name], kind):
                    raise ValueError(f"its {name} is {manifest[name]!r}")
        except RunError:
            raise
        except PermissionError as error:  # it may be whole, and saving would remove it
            raise RunError(
                f"the checkpoint {path} may not be read ({reason(error)[:60]}): have its owner "
                "allow it, or choose another --out"
            ) from error
        except Exception as error:  # a damaged file fails in as many ways as there are formats
            why = reason(error)[:60]
            complaints.append(f"the checkpoint {path} is damaged ({why}) and was passed over")
            first = first or f"{path.name}: {why}"
        else:
            return Checkpoint(path, manifest), complaints
    if complaints:
        raise RunError(
            f"no checkpoint in {root} can be read ({first}): put a good one back, or choose "
            "another --out to start again"
        )
    return None, complaints


def _folders(root: Path) -> list[Path]:
    """The checkpoints there, the oldest first."""
    return sorted(path for path in root.glob("step-*") if path.name[5:].isdecimal())


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _write(folder: Path, name: str, part: Any) -> None:
    if hasattr(part, "save_config"):  # a network, and no pipeline
        part.save_pretrained(folder / name)
        tensors = load_file(folder / name / _WEIGHTS)
    else:
        tensors = {}
        outline = _outline(part.state_dict(), name, tensors)
        save_file(tensors, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(outline))
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise RunError(
                f"{name} is not finite any more ({key}), so it was not saved: the last good "
                "checkpoint stays; lower the learning rate or raise r1 and r2"
            )


def _read(folder: Path, name: str) -> Any:
    if (folder / name).is_dir():
        return load_file(folder / name / _WEIGHTS)
    tensors = load_file(folder / f"{name}.safetensors")
    return _filled(parse(read_text(folder / f"{name}.json")), tensors)


def _check_optimizer(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a state that is not of this optimiser: its own loading compares no
    shapes, and its kernels write where the state says."""
    groups = optimizer.state_dict()["param_groups"]
    if len(groups) != len(saved["param_groups"]):
        raise ValueError(f"{len(saved['param_groups'])} groups of weights, expected {len(groups)}")
    for group, other in zip(groups, saved["param_groups"], strict=True):
        kinds, others = ({k: type(v) for k, v in g.items()} for g in (group, other))
        fixed = [k for k, v in group.items() if k == "params" or isinstance(v, bool)]
        if kinds != others or any(group[name] != other[name] for name in fixed):
            raise ValueError("a group of weights is another")
        if any(isinstance(v, float) and not math.isfinite(v) for v in other.values()):
            raise ValueError("a setting of a group is not finite")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, entry in saved["state"].items():
        shape = weights[number].shape
        for name, x in entry.items():
            right = x.shape == (() if name == "step" else shape)
            if not right or x.dtype not in (torch.float32, weights[number].dtype):
                raise ValueError(f"{name} of weight {number} is {x.dtype} {list(x.shape)}")


def _outline(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors moved into `tensors`; keys that are no strings survive."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"map": [[k, _outline(v, f"{path}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_outline(v, f"{path}.{i}", tensors) for i, v in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    return value


def _filled(outline: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(outline, dict):
        return outline
    ((kind, content),) = outline.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "map":
        return {k: _filled(v, tensors) for k, v in content}
    items = [_filled(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
