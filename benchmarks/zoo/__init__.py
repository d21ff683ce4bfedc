"""Models that people use, small and with random weights, each with the groups that are in it by hand analysis."""

from .diffusers_models import DIFFUSERS
from .hand import Hand, free, owning
from .known import Known
from .own import OWN
from .timm_models import TIMM
from .torchvision_models import TORCHVISION, with_operators
from .transformers_models import TRANSFORMERS

__all__ = ["MODELS", "Hand", "Known", "free", "owning", "with_operators"]

# By the package that they come from.
MODELS: dict[str, dict[str, Known]] = {
    "torch": OWN,
    "torchvision": TORCHVISION,
    "timm": TIMM,
    "transformers": TRANSFORMERS,
    "diffusers": DIFFUSERS,
}
