"""Options that are not the same for all tasks of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treadle.client.outbox import Options

__all__ = ["Varied"]


class Varied(dict[str, Any]):
    """The options of most tasks of a graph, as they are sent, and what some tasks have instead.

    :param special: by the keys of the graph. Equal options are one object.
    """

    def __init__(self, usual: Options, special: Mapping[Any, Options]) -> None:
        super().__init__(usual or {})
        self.usual = usual
        self.special = special

    def __repr__(self) -> str:
        return f"<Varied, {len(self.special)} tasks are not {self.usual!r}>"
