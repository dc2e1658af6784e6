"""Sphinx: how the documentation is built."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "ext"))

project = "mdmw"
author = "the mdmw authors"
copyright = "the mdmw authors"
release = version = version_of("mdmw")

extensions = ["generated"]
exclude_patterns = ["_build", "**.inc.rst"]
nitpicky = True
highlight_language = "none"
smartquotes = False  # help texts have JSON in them

html_theme = "alabaster"
html_theme_options = {
    "description": "Instance metadata as a WSGI pipeline",
    "page_width": "1100px",
    "sidebar_width": "230px",
    "fixed_sidebar": True,
    "show_powered_by": False,
}
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sourcelink = False
