"""``treadle demo``: a survey of a tree of Python sources, done with Treadle and checked against a plain loop."""
