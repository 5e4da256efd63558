"""Sphinx reads the Markdown pages of this folder; what a page marks with `<!-- fill: NAME -->` comes from the code.

make docs      docs/_build/html; a warning is an error
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from refstack import __version__  # noqa: E402

project, author, release = "refstack", "the refstack developers", __version__
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "pages"]
exclude_patterns = ["_build"]

smartquotes = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"refstack {release}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_copy_source = False
