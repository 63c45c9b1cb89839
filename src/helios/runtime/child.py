"""The entry of the processes that Helios starts itself, and of nodes: these run for long, and there are many.

People's entry is `helios.cli.main`, whose library for command lines these would hold in memory for good.
"""

# Imports are inside the functions: each kind loads, and holds, only what it needs, and Ctrl-C amid them is quiet.

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helios.runtime.settings import SettingsSource

_WRONG = 2
_INTERRUPTED = 130  # as shells have it


def run_child(kind: str, words: Sequence[str]) -> None:
    """Be a process of that kind, with the options `--name value` of `runtime.command_lines`.

    Its settings are those that a parent handed over. A node without any reads its own, and follows them.
    """
    gc.disable()  # until it runs: there is no garbage in imports, and looking for it would be a tenth of a start
    from helios.model.ids import Address
    from helios.runtime.handover import take_over

    options = dict(zip(words[::2], words[1::2], strict=True))
    source = None if "--settings" in options else _source(options)
    read = take_over(Path(options["--settings"])) if source is None else source.read()
    if kind == "gateway":
        from helios.runtime.gateway import run_gateway

        run_gateway(read, None, child=True)
        return
    node, listen = options["--id"], Address.parse(options["--listen"])
    advertise = Address.parse(options["--advertise"]) if "--advertise" in options else None
    if kind == "node":
        from helios.runtime.node import NodeOptions, run_node

        zone, leave_running = options.get("--zone", ""), "--leave-running" in options
        own = NodeOptions(node, listen, advertise, zone, child=source is None, leave_running=leave_running)
        run_node(own, read, source)
    else:
        from helios.runtime.router import WorkerOptions, run_router

        worker = WorkerOptions(node, listen, int(options["--worker"]), options["--fingerprint"], advertise)
        run_router(worker, read.settings)


def _source(options: Mapping[str, str]) -> SettingsSource:
    """Where a node that nobody handed settings to has its own from."""
    from helios.runtime.settings import SettingsSource

    path = Path(options["--config"]) if "--config" in options else None
    flags = {name.removeprefix("--"): value for name, value in options.items() if "." in name}
    return SettingsSource(path, os.environ, flags)


def main() -> int:
    """Run it; its exit status."""
    try:
        from helios.runtime.lifecycle import carry_out

        return 0 if carry_out(lambda: run_child(sys.argv[1], sys.argv[2:])) else _WRONG
    except KeyboardInterrupt:  # before it runs, when Ctrl-C ends it in order
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
