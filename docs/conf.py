"""Sphinx configuration. `make docs` treats every warning as an error; the pages load nothing from elsewhere."""

project = "AIGovTool"
author = "The AIGovTool contributors"
copyright = author  # noqa: A001 -- Sphinx chose the name

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["adr/template.md"]

myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sphinx = False
