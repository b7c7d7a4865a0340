"""How big a value may be that passes through the scheduler. Bigger ones stay on workers, and a future passes."""

from __future__ import annotations

from typing import Final

__all__ = ["DATASET_BYTES", "ITEM_BYTES"]

#: Bytes of a packed item of a queue, value of a variable, event or message.
ITEM_BYTES: Final = 64 << 10

#: Bytes of a packed dataset: a collection may have many futures.
DATASET_BYTES: Final = 16 << 20
