"""How Sphinx builds the pages: plain Markdown in, HTML out. `make docs` runs it, with warnings as errors."""

project = "Treadle"
author = "The Treadle developers"
copyright = author

extensions = ["myst_parser"]
exclude_patterns = ["requirements.txt"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "Treadle"
html_static_path: list[str] = []
pygments_style = "friendly"
pygments_dark_style = "monokai"
