"""Checkpoint files in and out, and model directories."""

from .directories import ModelDirectory, derive_spec_of, described
from .files import load_checkpoint, save_checkpoint
from .interpolated import save_interpolated

__all__ = ["ModelDirectory", "derive_spec_of", "described", "load_checkpoint", "save_checkpoint", "save_interpolated"]
