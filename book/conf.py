"""Sphinx's settings for the book; build.py writes the pages and calls Sphinx."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(os.environ["QWEN3_BOOK_ROOT"])

project = "qwen3_ref"
author = "the authors of qwen3_ref"
html_title = "Qwen3, explained by code that runs"
language = "en"
smartquotes = False  # quotes in texts about strings are quotes
extensions = ["myst_nb", "sphinx.ext.mathjax", "autoapi.extension"]

# Outputs are those that are committed; CI proves elsewhere that they are what the cells print.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
# In `source/` a page shows a file as it is, so that its lines are no headings.
# Constants that our modules import from each other are no objects to autoapi.
suppress_warnings = [
    "myst.header",
    "misc.highlighting_failure",
    "autoapi.python_import_resolution",
    "toc.not_included",  # modules and solutions are reached from lists, not from the side bar
    "ref.python",  # a type is searched by its last name, and two classes may share one
]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}

exclude_patterns = ["files/*"]

# The API is read from the text of the package: nothing is imported, so the book needs no PyTorch.
autoapi_dirs = [str(ROOT / "qwen3_ref")]
autoapi_root = "api"
autoapi_add_toctree_entry = False
autoapi_keep_files = False
autoapi_python_class_content = "class"
autoapi_member_order = "bysource"
autoapi_options = ["members", "undoc-members"]

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_copy_source = False
html_use_index = False
html_domain_indices = False
html_show_sphinx = False
html_show_copyright = False
html_show_search_summary = False  # it is fetched page by page, which a browser refuses on a file system
html_last_updated_fmt = None
html_search_scorer = str(ROOT / "book" / "scorer.js")
mathjax_path = "mathjax/tex-svg-full.js"  # one file, letters as outlines: no font is loaded later
mathjax3_config = {
    "options": {"enableMenu": False},  # its menu would fetch a speech engine
    "tex": {"inlineMath": [["\\(", "\\)"]], "processEscapes": True},
}
pygments_style = "a11y-light"
pygments_dark_style = "a11y-dark"


def as_text(docstring: str) -> str:
    """Our docstrings are plain text in which `name` is code; reStructuredText would see more in it."""
    return "\n\n".join(map(paragraph, re.split(r"\n[ \t]*\n", docstring)))


def paragraph(text: str) -> str:
    """One paragraph: a table in columns as it stands, else text, with its names as code."""
    lines = text.strip("\n").split("\n")
    if any(line.startswith("  ") for line in lines) and not lines[0].lstrip().startswith("- "):
        return "::\n\n" + "\n".join(f"   {line}" for line in lines)
    parts = re.split(r"(`[^`]+`)", text)
    words = [re.sub(r"([\\*|])|_(?=\W|$)", lambda m: "\\" + m[0], part) for part in parts[::2]]
    names = [f"\\ `{part}`\\ " for part in parts[1::2]]  # a name may touch what follows it
    return "".join(a + b for a, b in zip(words, [*names, ""], strict=True))


def setup(app: Any) -> None:
    """Docstrings reach the pages as text."""

    def mend(_app: Any, _what: str, _name: str, thing: Any, *_: Any) -> None:
        if not getattr(thing, "is_text", False):
            thing.docstring, thing.is_text = as_text(thing.docstring), True

    def shallow(_app: Any, _page: str, _template: str, context: Any, _tree: Any) -> None:
        """The side bar lists pages, not what lies beneath each: it is on every page, and was most of it."""
        if toctree := context.get("toctree"):
            context["toctree"] = lambda **how: toctree(**(how | {"maxdepth": 1}))

    app.connect("autoapi-skip-member", mend)
    app.connect("html-page-context", shallow, priority=100)  # before the theme
