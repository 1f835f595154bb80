"""How the site is built: ``make docs``."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOUND = re.search(r'__version__ = "([^"]+)"', (ROOT / "dfq_plugin" / "__init__.py").read_text(encoding="utf-8"))

project = "dfq_plugin"
author = "the authors of dfq_plugin"
release = version = FOUND[1] if FOUND else ""
html_title = f"dfq_plugin {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_copy_source = False
html_show_sphinx = False

# Anchors as GitHub makes them: the pages are read there too.
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # or the fields of a dataclass would be described twice
napoleon_custom_sections = [("Class attributes", "params_style")]
