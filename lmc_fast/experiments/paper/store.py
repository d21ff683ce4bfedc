"""A results folder that a second run goes on in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..._files import is_unfinished, write_text

__all__ = ["ResultsFolder"]

SETTINGS = "settings.json"


class ResultsFolder:
    """A folder with the settings that it belongs to, and one JSON file for every stage that is done.

    Args:
        path: a new folder, an empty one, or one of an earlier run.
        settings: all that decides the results, as JSON takes it.
        say: told of stages that are done again because their file is damaged.

    Raises:
        FileNotFoundError: the folder that `path` is to stand in does not exist.
        FileExistsError: `path` is a file, holds other things, or belongs to other settings.
        ValueError: its settings cannot be read.
    """

    def __init__(self, path: Path, settings: dict[str, Any], say: Callable[[str], None] = lambda note: None) -> None:
        self.path, self.say = path, say
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"output {str(path)!r} is a file")
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"the folder of output {str(path)!r} does not exist")
        # What JSON makes of it: tuples become lists.
        settings = json.loads(json.dumps(settings))
        # What a run that was killed left of a file that it was writing is nothing.
        if path.exists() and not all(is_unfinished(each) for each in path.iterdir()):
            self._check_same(settings)
        else:
            path.mkdir(exist_ok=True)
            self.write(SETTINGS, json.dumps(settings, indent=1) + "\n")
        (path / "stages").mkdir(exist_ok=True)

    def _check_same(self, settings: dict[str, Any]) -> None:
        file = self.path / SETTINGS
        if not file.is_file():
            raise FileExistsError(f"output folder {str(self.path)!r} holds other things than results of this command")
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError(f"{str(file)!r} is no JSON: take another --out, or remove the folder") from None
        difference = _difference(found, settings, "")
        if difference is not None:
            raise FileExistsError(
                f"output folder {str(self.path)!r} belongs to other settings ({difference}): take another --out"
            )

    def write(self, name: str, text: str) -> Path:
        """Write a file of the folder, aside and then renamed."""
        path = self.path / name
        write_text(path, text)
        return path

    def has(self, stage: str) -> bool:
        """Whether a stage's file is there."""
        return self._file(stage).is_file()

    def read(self, stage: str) -> dict[str, Any] | None:
        """What a stage left; None if it is not done, or (after a note) if its file is damaged."""
        file = self._file(stage)
        if not file.is_file():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.get("stage") == stage and "numbers" in content:
                return content
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            pass
        self.say(f"{file.name} is damaged, and its stage is done again")
        return None

    def keep(self, stage: str, numbers: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Write what a stage measured; return it as `read` would."""
        content = {"stage": stage, "seconds": seconds, "numbers": numbers}
        # JSON knows no infinity, and nothing measured should be one.
        self.write(f"stages/{stage}.json", json.dumps(content, allow_nan=False) + "\n")
        return content

    def _file(self, stage: str) -> Path:
        return self.path / "stages" / f"{stage}.json"


def _difference(found: Any, wanted: Any, where: str) -> str | None:
    """Where two JSON values first differ, in words; None if they do not."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            inside = _difference(found.get(key), wanted.get(key), f"{where}.{key}".lstrip("."))
            if inside is not None:
                return inside
        return None
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True))
        return next((d for i, (a, b) in pairs if (d := _difference(a, b, f"{where}[{i}]")) is not None), None)
    return None if found == wanted else f"{where} was {_brief(found)}, is {_brief(wanted)}"


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
