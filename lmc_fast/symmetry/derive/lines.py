"""Where operations of a graph come from."""

from __future__ import annotations

import re

from torch.fx import Node

__all__ = ["source_line"]


def source_line(node: Node) -> str:
    """The line of the model's source that an operation comes from: "file.py:12: code"."""
    trace = node.meta.get("stack_trace") or ""
    lines = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)', trace)
    if not lines:
        return ""
    # The model's own where there are any: those of torch's layers say less.
    own = [each for each in lines if "/torch/nn/" not in each[0].replace("\\", "/")]
    file, line, code = (own or lines)[-1]
    return f"{file.rpartition('/')[2]}:{line}: {code.strip()}"
