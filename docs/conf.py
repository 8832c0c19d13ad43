"""How Sphinx makes the manual: `make docs`."""

project = "headnode"
copyright = "the headnode developers, GPL-2.0-or-later"  # noqa: A001 (Sphinx's name)
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "headnode"
html_copy_source = False
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
man_pages = [("commands", "headnode", "one headnode for a Gentoo cluster", [], 8)]
