"""What matchers and mergers are made with, as the scripts' configurations have it."""

from __future__ import annotations

from typing import Any

from ..._checks import check_type
from ..specs import halves_of

__all__ = ["Configured"]


class Configured:
    """A method of a spec.

    Args:
        name: of the method, as the scripts' configurations have it.
        permutation_spec: the spec, of whatever class.

    Raises:
        TypeError, ValueError: no string, or no spec.
    """

    def __init__(self, name: str, permutation_spec: Any) -> None:
        check_type("name", name, str, "a string")
        halves_of(permutation_spec)
        self.name = name
        self.permutation_spec = permutation_spec
