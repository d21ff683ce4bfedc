"""Checkpoint files in and out."""

from .files import load_checkpoint, save_checkpoint

__all__ = ["load_checkpoint", "save_checkpoint"]
