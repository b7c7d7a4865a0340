"""Runs the client in JavaScript against a cluster of this machine. ``make node`` does it like this:

    python tests/node/run_node.py directory

In the directory lie copies of the ``.mjs`` files beside this one, and their ``node_modules``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from threading import Timer

from treadle import Client, LocalCluster

#: Seconds that the client may take. It takes about one.
PATIENCE = 60


def expected(directory: Path) -> list[str]:
    """What the client says when all is well: a line for each of its checks, and one for its end."""
    names = re.findall(r'^  async "(.*)"\(', (directory / "client.mjs").read_text(encoding="utf-8"), re.MULTILINE)
    return [f"ok: {name}" for name in [*names, "the end of the connection"]]


def main(directory: Path) -> int:
    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:
        environment = {**os.environ, "TREADLE_TOKEN": cluster.token.decode()}
        command = ["node", "client.mjs", cluster.address]
        with subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True) as process:
            watchdog = Timer(PATIENCE, process.kill)
            watchdog.daemon = True
            watchdog.start()
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                print(line, end="", flush=True)
                said.append(line.rstrip("\n"))
            watchdog.cancel()
        assert process.returncode == 0, f"it ended with the status {process.returncode}"
        assert said == expected(directory), f"not all of its checks were made: {said}"
        # Who leaves wants nothing any more, and harms nobody.
        assert client.who_has() == {}, "results are left over"
        assert client.submit(pow, 2, 10).result(PATIENCE) == 1024
    print("the cluster is as it was before")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
