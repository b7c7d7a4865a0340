"""``python -m treadle`` is the ``treadle`` command."""

from __future__ import annotations

from treadle.cli import main

if __name__ == "__main__":
    main(prog_name="treadle")
