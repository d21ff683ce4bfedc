"""What this machine can do."""

from __future__ import annotations

import torch

from ._checks import fail_type

__all__ = ["check_device"]


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
