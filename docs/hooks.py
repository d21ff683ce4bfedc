"""What the build of the site does beside MkDocs: pages and docstrings hold no HTML, so that `<a, b>` is shown."""

from __future__ import annotations

import re
from typing import Any

from markdown import Markdown
from markdown.extensions import Extension

_COMMENT = re.compile(r"^<!--.*?-->\n", re.M | re.S)


class NoHtml(Extension):
    """Leaves angle brackets as text."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.deregister("html_block")
        md.inlinePatterns.deregister("html")


def on_config(config: Any) -> Any:
    """For pages, and for what mkdocstrings makes of docstrings."""
    config.markdown_extensions.append(NoHtml())
    return config


def on_page_markdown(markdown: str, **_: object) -> str:
    """Comments say how a block is run, and are not shown."""
    return _COMMENT.sub("", markdown)
