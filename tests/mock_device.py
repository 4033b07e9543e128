"""An accelerator that is not there: its tensors say so, and their numbers are computed on the CPU.

Inside `MockDevice()` it refuses what CUDA or MPS refuse (operands on two devices, a generator of
another device, float64), and it counts what makes the host wait: reading a value, boolean masks,
copies to the host, and copies to the device that are not from pinned memory and non-blocking.
"""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.utils import backend_registration as registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "mock"


class _Module(registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


registration._setup_privateuseone_for_python_backend(NAME, _Module())
DEVICE = torch.device(NAME, 0)
ATEN = torch.ops.aten
READS = {
    *(ATEN._local_scalar_dense.default, ATEN.nonzero.default, ATEN.masked_select.default),
    *(ATEN.equal.default, ATEN._unique2.default, ATEN.unique_dim.default, ATEN.bincount.default),
    ATEN.repeat_interleave.Tensor,
}
INDEXING = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default}
COPIES = {ATEN._to_copy.default, ATEN.copy_.default}


class WrongDevice(RuntimeError):
    """What an accelerator would have refused."""


class OnDevice(Tensor):
    """A tensor on the device; `raw` holds its numbers."""

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> "OnDevice":
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset()}
        made = Tensor._make_wrapper_subclass(
            cls, raw.size(), **layout, dtype=raw.dtype, device=DEVICE
        )
        made.raw = raw
        return made

    def __repr__(self) -> str:
        return f"on {DEVICE}: {self.raw!r}"

    def tolist(self) -> list:
        MockDevice.active.wait("tolist")
        return self.raw.tolist()

    def pin_memory(self, *_: object) -> Tensor:
        raise WrongDevice("only memory of the host can be pinned")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return MockDevice.active.run(func, args, kwargs or {})


class MockDevice(TorchDispatchMode):
    """The device, while it is there.

    Attributes:
        waits: what the host waited for, and where: how often.
        operations: how many there were.
    """

    active: "MockDevice | None" = None

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.operations = 0
        self.generators: set[int] = set()
        self._pinned: list[Tensor] = []

    def __enter__(self) -> "MockDevice":
        MockDevice.active = self
        torch._C._set_only_lift_cpu_tensors(True)
        self._patch = pytest.MonkeyPatch()
        self._patch.delenv("ACCELERATE_USE_CPU", raising=False)
        self._patch.setattr(torch, "Generator", _generator(self.generators))
        self._patch.setattr(Tensor, "pin_memory", lambda x, *_: self._pin(x))
        # Files are told by the addresses of their numbers, which these do not have.
        save = ModelMixin.save_pretrained
        self._patch.setattr(
            ModelMixin, "save_pretrained", lambda x, *a, **k: save(deepcopy(x).cpu(), *a, **k)
        )
        self._patch.setattr(torch.accelerator, "synchronize", lambda *_: self.wait("synchronize"))
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._patch.undo()
        torch._C._set_only_lift_cpu_tensors(False)
        MockDevice.active = None

    def _pin(self, x: Tensor) -> Tensor:
        self._pinned = [*self._pinned[-8:], x.clone()]  # alive, so that no other takes its place
        return self._pinned[-1]

    def wait(self, what: str) -> None:
        self.waits[f"{what} at {_place()}"] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if OnDevice not in types and not (kwargs and kwargs.keys() & {"device", "generator"}):
            return func(*args, **(kwargs or {}))
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        leaves = [*_leaves(args), *_leaves(tuple(kwargs.values()))]
        inputs = [x for x in leaves if isinstance(x, OnDevice)]
        host = [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, OnDevice)]
        target = kwargs.get("device")
        here = bool(inputs) if target is None else torch.device(target).type == NAME
        for generator in (x for x in leaves if isinstance(x, torch._C.Generator)):
            if (generator._cdata in self.generators) != here:
                raise WrongDevice(f"{func}: a generator of another device at {_place()}")
        if not inputs and not here:
            return func(*args, **kwargs)
        self.operations += 1
        self._check(func, args, kwargs, inputs, host, here)
        plain = dict(kwargs) if target is None else {**kwargs, "device": torch.device("cpu")}
        plain.pop("pin_memory", None)
        if func is ATEN._to_copy.default:
            plain.pop("non_blocking", None)
        raw_args = _mapped(_raw, args)
        out = func(*raw_args, **{name: _mapped(_raw, x) for name, x in plain.items()})
        if func is ATEN._to_copy.default and out.data_ptr() == raw_args[0].data_ptr():
            out = out.clone()  # between devices there is always a copy
        if func is ATEN._local_scalar_dense.default or not here:
            return out
        if any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in _leaves((out,))):
            raise WrongDevice(f"{func}: float64, which MPS does not have, at {_place()}")
        # What an operation in place returns is its argument.
        same = {id(x.raw): x for x in inputs}

        def placed(x):
            return same[id(x)] if id(x) in same else OnDevice(x)

        return _mapped(lambda x: placed(x) if isinstance(x, Tensor) else x, out)

    def _check(self, func, args, kwargs, inputs, host, here) -> None:
        shapes = [list(x.shape) for x in host if x.ndim]
        if inputs and shapes and func not in COPIES | INDEXING:
            raise WrongDevice(f"{func}: {shapes} are on the CPU, others not, at {_place()}")
        if func in READS:
            self.wait(str(func))
        if func in INDEXING:
            if not isinstance(args[0], OnDevice):
                raise WrongDevice(f"{func}: a tensor of the CPU is indexed at {_place()}")
            index = [x for x in args[1] if isinstance(x, Tensor)]
            masks = any(x.dtype == torch.bool for x in index)
            fills = len(args) > 2 and args[2].ndim == 0
            if (masks and not fills) or any(not isinstance(x, OnDevice) for x in index):
                self.wait("a mask, or an index of the CPU,")
        if func in COPIES:
            given = args[0] if func is ATEN._to_copy.default else args[1]
            arrives = here if func is ATEN._to_copy.default else isinstance(args[0], OnDevice)
            free = kwargs.get("non_blocking") or (
                func is ATEN.copy_.default and args[2:] == (True,)
            )
            pinned = any(given is x for x in self._pinned)
            if isinstance(given, OnDevice) != arrives and not (arrives and free and pinned):
                self.wait("a copy")


def _raw(x):
    return x.raw if isinstance(x, OnDevice) else x


def _leaves(values):
    """What is in nested tuples and lists; torch's trees cost more than the operations here."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from _leaves(value)
        else:
            yield value


def _mapped(function, value):
    if isinstance(value, tuple | list):
        return type(value)([_mapped(function, x) for x in value])
    return function(value)


def _generator(there: set[int]) -> type[torch.Generator]:
    """`torch.Generator`, also of the device; those that are have their numbers in `there`."""
    real = torch.Generator

    class Generator(real):
        def __new__(cls, device="cpu"):
            made = real.__new__(cls, "cpu")
            if torch.device(device).type == NAME:
                there.add(made._cdata)
            return made

        def __init__(self, device="cpu") -> None:
            pass

        @property
        def device(self) -> torch.device:
            return DEVICE if self._cdata in there else torch.device("cpu")

        def __del__(self) -> None:
            there.discard(self._cdata)

    return Generator


def _place() -> str:
    """The innermost line of this project that is not of this file."""
    frames = traceback.extract_stack()
    ours = [f for f in frames if "/hybridgen/" in f.filename or "/experiments/" in f.filename]
    frame = (ours or frames)[-1]
    return f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno}"


def accelerator_there(**options: object) -> Accelerator:
    """An Accelerator that computes on the device."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(**{**options, "cpu": True})
    for state in (PartialState._shared_state, AcceleratorState._shared_state):
        state["device"] = DEVICE
    return accelerator


@contextmanager
def mock_accelerator(**options: object) -> Iterator[tuple[MockDevice, Accelerator]]:
    """The device while it is there, and an Accelerator that computes on it."""
    accelerator = accelerator_there(**options)
    with MockDevice() as device:
        yield device, accelerator
