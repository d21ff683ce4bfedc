"""What this machine can do, and the choice between plain torch, the native core and Triton."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ._checks import fail_type
from ._extras import install_line

__all__ = [
    "BACKENDS",
    "Backends",
    "Launch",
    "autotuning",
    "backends",
    "cache_folder",
    "check_backend",
    "check_device",
    "choose",
    "interpreted",
    "launch",
    "warn_once",
]

BACKENDS = ("auto", "torch", "native", "triton")

# What has been told, so that it is told once.
_told: set[str] = set()


@dataclass(frozen=True)
class Backends:
    """What an operation can run on here. `reasons` holds, for what it cannot, why not.

    Attributes:
        devices: torch devices with memory of their own, by name and model; the CPU is always there.
        available: of "torch", "native" and "triton", those that work.
        reasons: why each of the others does not.
        core: how the native core was built: the compiler, whether it optimised, and the instruction set that the core
            takes on this processor; "" without a core.
    """

    devices: Mapping[str, str]
    available: tuple[str, ...]
    reasons: Mapping[str, str]
    core: str = ""

    def __str__(self) -> str:
        told = {name: "yes" if name in self.available else f"no: {self.reasons[name]}" for name in BACKENDS[1:]}
        if self.core and "native" in self.available:
            told["native"] += f": {self.core}"
        lines = [f"{name:<7} {text}" for name, text in told.items()]
        lines += [f"{name:<7} {model}" for name, model in self.devices.items()]
        return "\n".join(lines)


def backends() -> Backends:
    """What this machine can do, and why not the rest: ``print(lmc_fast.backends())``."""
    reasons = {name: reason for name, reason in (("native", _no_native()), ("triton", _no_triton())) if reason}
    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        for k in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(k)
            devices[f"cuda:{k}"] = f"{torch.cuda.get_device_name(k)}, compute capability {major}.{minor}"
    return Backends(devices, tuple(name for name in BACKENDS[1:] if name not in reasons), reasons, _core())


def check_backend(backend: object) -> str:
    """Return `backend`; TypeError unless it is a string, ValueError unless it is one of `BACKENDS`."""
    if not isinstance(backend, str):
        fail_type("backend", f"one of {BACKENDS}", backend)
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")
    return backend


def choose(
    backend: str,
    operation: str,
    device: torch.device,
    cannot: Mapping[str, Callable[[], str | None]] | None = None,
    *,
    tell: bool = True,
) -> str:
    """The backend that an operation is to use on tensors of `device`: "torch", "native" or "triton".

    Args:
        backend: one of `BACKENDS`. "auto" takes the fastest that can, and says once why it is plain torch where a
            faster one exists for the device.
        operation: its name, for messages.
        device: where its tensors are.
        cannot: for the backends that the operation has beside torch, why this call cannot use them (None: it can).
        tell: whether "auto" says so; not where plain torch is what some inputs are for.

    Raises:
        TypeError, ValueError: no backend's name.
        RuntimeError: an explicit choice that cannot be; the message says why.
    """
    check_backend(backend)
    checks = {} if cannot is None else dict(cannot)
    if backend == "torch":
        return backend
    if backend != "auto":
        reason = _why_not(backend, operation, device, checks)
        if reason is not None:
            raise RuntimeError(f"backend {backend!r} cannot run {operation} here: {reason}")
        return backend
    fastest = "native" if device.type == "cpu" else "triton"
    if fastest not in checks:
        return "torch"
    reason = _why_not(fastest, operation, device, checks)
    if reason is None:
        return fastest
    if tell:
        warn_once(f"{operation} on {device.type} runs in plain torch: {reason}", stacklevel=4)
    return "torch"


def warn_once(message: str, *, stacklevel: int = 2) -> None:
    """RuntimeWarning, unless this process has been told the same. `stacklevel` as `warnings.warn` at the caller's."""
    if message not in _told:
        _told.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=stacklevel + 1)


def interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, on any device's tensors. Read before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


def autotuning() -> bool:
    """Whether kernels use the fastest of their configurations, timed on first use (``LMC_FAST_AUTOTUNE=1``).

    Off by default: another tile size sums in another order, and the same inputs are to give the same result.
    """
    return os.environ.get("LMC_FAST_AUTOTUNE", "0") == "1"


@dataclass(frozen=True)
class Launch:
    """One process of several that were launched together.

    Attributes:
        rank, size: which of how many.
        local_rank, local_size: which of how many on this machine; `rank` and `size` where that is not told.
        host, port: where they meet.
        attempt: how often they have been launched before.
        is_hosted: whether the launcher is at the meeting place; if not, rank 0 is.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    port: int
    attempt: int
    is_hosted: bool


def launch() -> Launch | None:
    """What torchrun, or another launcher with the same words, tells this process; None for a process by itself.

    Raises:
        ValueError: words that are no numbers, or a rank that there is not.
    """
    told = os.environ
    if any(not told.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        return None

    def number(name: str, default: int = 0) -> int:
        text = told.get(name) or str(default)
        if not text.isdecimal():
            raise ValueError(f"{name} in the environment must be a number, got {text!r}")
        return int(text)

    rank, size = number("RANK"), number("WORLD_SIZE")
    if size < 2:
        return None
    if rank >= size:
        raise ValueError(f"RANK in the environment must be below WORLD_SIZE, {size}, got {rank}")
    return Launch(
        rank,
        size,
        number("LOCAL_RANK", rank),
        number("LOCAL_WORLD_SIZE", size),
        told["MASTER_ADDR"],
        number("MASTER_PORT"),
        number("TORCHELASTIC_RESTART_COUNT"),
        told.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def cache_folder() -> Path | None:
    """Where what was measured here is kept: ``LMC_FAST_CACHE``, or `lmc_fast` in the user's cache folder.

    It need not exist. None for a user without a home.
    """
    for variable, below in (("LMC_FAST_CACHE", ""), ("XDG_CACHE_HOME", "lmc_fast")):
        if os.environ.get(variable):
            return Path(os.environ[variable], below)
    try:
        return Path.home() / ".cache" / "lmc_fast"
    except RuntimeError:
        return None


def _why_not(
    backend: str, operation: str, device: torch.device, checks: Mapping[str, Callable[[], str | None]]
) -> str | None:
    if backend not in checks:
        return f"{operation} has no such form"
    if backend == "native":
        reason = _no_native()
        if reason is None and device.type != "cpu":
            reason = f"it works on the CPU, and the tensors are on {device}"
    else:
        reason = _no_triton()
        if reason is None and device.type != "cuda" and not interpreted():
            reason = f"it works on a GPU, and the tensors are on {device}"
    return checks[backend]() if reason is None else reason


@functools.cache
def _no_native() -> str | None:
    try:
        importlib.import_module("lmc_fast._native")
    except ImportError as error:
        return f"the compiled core does not load ({error})"
    return None


def _core() -> str:
    if _no_native() is not None:
        return ""
    compiler, is_optimized, simd = importlib.import_module("lmc_fast._native").build()
    return f"{compiler}, {'optimised' if is_optimized else 'NOT OPTIMISED: build it with -O3'}, {simd}"


@functools.cache
def _no_triton() -> str | None:
    try:
        importlib.import_module("triton")
    except ImportError as error:
        if sys.platform != "linux":
            return "Triton exists for Linux only"
        return f"Triton does not load ({error}): {install_line('triton')}"
    if interpreted() or torch.cuda.is_available():
        return None
    return "there is no GPU that torch can use"


def check_device(argument: str, device: torch.device | str | None) -> torch.device | None:
    """Return `device` as torch's own type, after making sure that this machine has it; None stays None.

    Raises:
        TypeError: neither a string nor a torch.device.
        ValueError: no device's name, or a device that torch cannot use here; the message says why.
    """
    if device is None:
        return None
    if not isinstance(device, (str, torch.device)):
        fail_type(argument, "a torch.device, its name or None", device)
    try:
        found = torch.device(device)
        # The meta device, for one, holds nothing that could be read back.
        torch.zeros(1, device=found).item()
    # torch says so in several ways, by the device and the build.
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{argument} must be a device of this machine, got {str(device)!r}: {reason}") from None
    return found
