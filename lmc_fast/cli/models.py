"""Models as they are named on a command line, and inputs for them."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from torch import nn

    from ..checkpoints.directories import ModelDirectory

__all__ = ["Given", "given_model", "imported", "imported_module", "model_options", "parse_inputs"]

# Numbers of a trial in the memory that is there: two copies in float64, and what is on the way.
BYTES_OF_A_TRIAL = 24
SHARE_OF_MEMORY = 0.6
_PATTERN = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?:(?P<kind>float|int|bool):)?(?P<shape>\d+(?:,\d+)*)?")
# Of an error, in a sentence of ours.
_FIRST = 200


@dataclass(frozen=True)
class Given:
    """A model, and what to call it with.

    Attributes:
        told: one line of what it is.
        module: possibly without weights.
        build: makes it with random weights, where `module` has none; None where it has.
        inputs: example inputs.
    """

    told: str
    module: nn.Module
    build: Callable[[], nn.Module] | None
    inputs: Any

    def with_weights(self) -> tuple[nn.Module | None, str]:
        """The module with weights, or why there is none."""
        if self.build is None:
            return self.module, ""
        needed = BYTES_OF_A_TRIAL * sum(tensor.numel() for tensor in self.module.state_dict().values())
        if needed > SHARE_OF_MEMORY * _free_memory():
            return None, f"the spec was not tried on the model: that would take {needed / 2**30:.0f} GiB of memory"
        return self.build(), ""


def _free_memory() -> float:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return float("inf")


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that takes a model."""
    for option in reversed(
        (
            click.option(
                "--input",
                "given",
                multiple=True,
                metavar="[NAME=][KIND:]SHAPE",
                help="An argument of the forward pass, as 1,3,224,224 or input_ids=int:1,16; KIND is float, int (zeros "
                "and ones) or bool. Again for more.  [default: by a model directory's configuration]",
            ),
            click.option("--class", "architecture", help="The class to build, in place of the one in config.json."),
            click.option(
                "--trust-remote-code", is_flag=True, help="Run code that config.json names in its folder (auto_map)."
            ),
        )
    ):
        command = option(command)
    return command


def parse_inputs(given: Sequence[str]) -> Any:
    """Example inputs from their shapes; None where there are none.

    Raises:
        ValueError: one that is not of the form, or a name that stands twice.
    """
    import torch

    from ..symmetry import Inputs

    args: list[torch.Tensor] = []
    kwargs: dict[str, torch.Tensor] = {}
    for text in given:
        match = _PATTERN.fullmatch(text)
        if match is None or (match["shape"] is None and match["kind"] is None):
            raise ValueError(f"--input must be [NAME=][KIND:]SHAPE, as 1,3,224,224 or input_ids=int:1,16, got {text!r}")
        shape = [int(size) for size in (match["shape"] or "").split(",") if size]
        tensor = _tensor(shape, match["kind"] or "float")
        if match["name"] is None:
            args.append(tensor)
        elif match["name"] in kwargs:
            raise ValueError(f"--input must name each argument once, got {match['name']!r} twice")
        else:
            kwargs[match["name"]] = tensor
    return Inputs(*args, **kwargs) if given else None


def _tensor(shape: Sequence[int], kind: str) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    if kind == "float":
        return torch.randn(list(shape), generator=generator)
    numbers = torch.randint(0, 2, list(shape), generator=generator)
    return numbers.bool() if kind == "bool" else numbers


def given_model(
    model: str, given: Sequence[str], architecture: str | None = None, trust_remote_code: bool = False
) -> Given:
    """The model that a command was given: a model directory, or what can be imported.

    Args:
        model: a folder with config.json, or "package.module:callable", which is called without arguments, or is a
            module itself. The current folder can be imported from.
        given: its inputs, as `parse_inputs` reads them.
        architecture, trust_remote_code: of a model directory, as `described` has them.

    Raises:
        ValueError, ImportError, OSError, TypeError: there is no such model, or it needs inputs; in one sentence.
    """
    inputs = parse_inputs(given)
    if Path(model).exists() or ":" not in model:
        from ..checkpoints.directories import described

        found = described(model, architecture=architecture, example_inputs=inputs, trust_remote_code=trust_remote_code)
        return Given(_told_of(found), found.module, found.build, found.example_inputs)
    module = imported_module(model)
    inputs = _own_inputs(module) if inputs is None else inputs
    if inputs is None:
        raise ValueError(
            f"--input must be given for {model}, as --input 1,3,224,224: what it is called with is not known"
        )
    return Given(f"{model}: {type(module).__name__}, {_counted(module)}", module, None, inputs)


def _told_of(found: ModelDirectory) -> str:
    files = f"{len(found.shards.files)} files of weights" if len(found.shards.files) > 1 else "one file of weights"
    weights = files if found.tensors else "no weights"
    return f"{found.path}: {found.architecture} of {found.library}, {_counted(found.module)}, {weights}"


def _counted(module: nn.Module) -> str:
    count = sum(parameter.numel() for parameter in module.parameters())
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.1f} {name} parameters"
    return f"{count} parameters"


def imported(model: str) -> Any:
    """What "package.module:name" is.

    Raises:
        ImportError: there is no such thing to import.
    """
    place, _, name = model.partition(":")
    # As where Python runs a file of this folder.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(place)
    except ModuleNotFoundError as error:
        missing = error.name or place
        if place == missing or place.startswith(f"{missing}."):
            raise ImportError(f"{model}: there is no module {missing!r} to import from") from None
        raise ImportError(f"{model}: {place} needs {missing}, which is not installed") from None
    except ValueError:
        raise ImportError(f"{model}: {place!r} is no module's name") from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise ImportError(f"{model}: {place} has no {name!r}")
        found = getattr(found, part)
    return found


def imported_module(model: str) -> nn.Module:
    """The module that "package.module:callable" is, or gives.

    Raises:
        ImportError, TypeError: there is none.
    """
    from torch import nn

    found = imported(model)
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise TypeError(f"{model} must be a module or make one, got a {type(found).__name__}")
        try:
            found = found()
        except TypeError as error:
            raise TypeError(f"{model} must take no arguments, but: {str(error)[:_FIRST]}") from error
    if not isinstance(found, nn.Module):
        raise TypeError(f"{model} must make a torch.nn.Module, got a {type(found).__name__}")
    return found


def _own_inputs(module: Any) -> Any:
    """What a model says that it is called with: transformers' by their configuration, Lightning's by an attribute."""
    if hasattr(module, "main_input_name") and hasattr(module, "config"):
        from ..checkpoints.examples import transformers_inputs

        return transformers_inputs(module)
    return getattr(module, "example_input_array", None)
