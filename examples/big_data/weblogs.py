"""Lines that a web server writes, as text files: a bag of them."""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from chapters import Data, Step, write_files

from treadle import Client

db: Any = import_module("dask.bag")

LINES_PER_FILE = 80_000
PATHS = ["/", "/search", "/cart", "/login", *(f"/items/{number}" for number in range(500))]
STATUSES = [200] * 90 + [304] * 5 + [404] * 3 + [500, 503]
LINE = re.compile(r'(\S+) \S+ \S+ \[([^\]]+)\] "(\S+) (\S+) [^"]*" (\d+) (\d+)')

#: Host, path, status and bytes of a request.
Request = tuple[str, str, int, int]


def write(path: Path, number: int, lines: int) -> int:
    chance = random.Random(number)
    with open(path, "w", encoding="ascii") as file:
        for second in range(lines):
            host = f"10.{chance.randrange(4)}.{chance.randrange(256)}.{chance.randrange(256)}"
            time = (
                f"{1 + number % 28:02}/Nov/2025:{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02} +0000"
            )
            request = f'"GET {chance.choice(PATHS)} HTTP/1.1" {chance.choice(STATUSES)} {chance.randrange(20_000)}'
            file.write(f'{host} - - [{time}] {request} "-" "Mozilla/5.0 (X11; Linux x86_64)"\n')
    return path.stat().st_size


def make(client: Client, folder: Path, nbytes: float) -> Data:
    files, lines = write_files(client, write, str(folder / "logs" / "{:04}.log"), nbytes, LINES_PER_FILE, 115)
    return Data("log lines", files, lines, "lines")


def parse(line: str) -> Request:
    found = LINE.match(line)
    if found is None:
        raise ValueError(f"this is no line of a web server's log: {line!r}")
    host, _, _, path, status, nbytes = found.groups()
    return host, path, int(status), int(nbytes)


def path_of(request: Request) -> str:
    return request[1]


def status_of(request: Request) -> int:
    return request[2]


def is_failure(request: Request) -> bool:
    return request[2] >= 500


def add_bytes(total: int, request: Request) -> int:
    return total + request[3]


def add(first: int, second: int) -> int:
    return first + second


def steps(data: Data) -> list[Step]:
    requests = db.read_text([str(path) for path in data.files]).map(parse)
    failures = requests.filter(is_failure).map(path_of).frequencies(sort=False)
    sent = requests.foldby(status_of, add_bytes, 0, add, 0)
    held = sum(map(sys.getsizeof, data.files[0].read_text("ascii").splitlines())) * len(data.files)
    return [
        Step("failures by path", data, held, lambda: dict(failures.compute()), lambda: expected_failures(data)),
        Step("fold: bytes by status", data, held, lambda: dict(sent.compute()), lambda: expected_sent(data)),
    ]


def every_request(data: Data) -> Iterator[Request]:
    for path in data.files:
        with open(path, encoding="ascii") as file:
            yield from map(parse, file)


def expected_failures(data: Data) -> dict[str, int]:
    return dict(Counter(path_of(request) for request in every_request(data) if is_failure(request)))


def expected_sent(data: Data) -> dict[int, int]:
    sent: Counter[int] = Counter()
    for request in every_request(data):
        sent[status_of(request)] += request[3]
    return dict(sent)
