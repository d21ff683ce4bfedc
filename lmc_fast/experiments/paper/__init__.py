"""The paper's claims, measured: `lmc-fast paper`."""

from .run import PaperResult, run_paper
from .settings import Network, Settings, Sweep, Transformers, quick_settings, standard_settings

__all__ = [
    "Network",
    "PaperResult",
    "Settings",
    "Sweep",
    "Transformers",
    "quick_settings",
    "run_paper",
    "standard_settings",
]
