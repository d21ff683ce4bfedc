"""Whether a result's spec was verified, as it is printed and kept in files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ...symmetry.verification import Verification
from .saved import checked

__all__ = ["verification_from", "verification_line", "verification_to"]

_FIELDS: dict[str, type] = {
    "by": str,
    "version": str,
    "model": str,
    "inputs": str,
    "error": float,
    "precision": str,
    "note": str,
    "structure": str,
}


def verification_line(verified: Verification | None, why_not: str) -> str:
    """One line for people."""
    if verified is not None:
        return f"spec {verified}"
    return "spec not verified" + (f": {why_not}" if why_not else "")


def verification_to(verified: Verification | None, why_not: str) -> dict[str, Any]:
    """What a file's JSON object holds of it."""
    return {"verified": None if verified is None else asdict(verified), "why_not_verified": why_not}


def verification_from(result: Any) -> dict[str, Any]:
    """Take it out of a file's JSON object, checked; files that know nothing of it are of specs not verified."""
    if not isinstance(result, dict):
        return {}
    verified, why_not = result.pop("verified", None), result.pop("why_not_verified", "")
    if not isinstance(why_not, str):
        raise ValueError("result: why_not_verified must be of type str")
    if isinstance(verified, dict):
        # Files of earlier versions do not tell it.
        verified = {"structure": "", **verified}
    known = None if verified is None else Verification(**checked(verified, "result: verified", _FIELDS))
    return {"verified": known, "why_not_verified": why_not}
