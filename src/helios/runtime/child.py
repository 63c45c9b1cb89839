"""The entry of the processes that Helios starts itself: nodes, routers and the gateway.

People's entry is `helios.cli.main`, whose library for command lines these would hold in memory for good.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from helios.model.ids import Address
from helios.runtime.handover import take_over
from helios.runtime.lifecycle import carry_out


def run_child(kind: str, words: Sequence[str]) -> None:
    """Be a process of that kind, with the options `--name value` and the settings that a parent handed over."""
    gc.disable()  # until it runs: there is no garbage in imports, and looking for it would be a tenth of a start
    options = dict(zip(words[::2], words[1::2], strict=True))
    read = take_over(Path(options["--settings"]))
    # Imports are here since each kind loads, and holds, only what it needs.
    if kind == "gateway":
        from helios.runtime.gateway import run_gateway

        run_gateway(read, None, child=True)
        return
    node, listen = options["--id"], Address.parse(options["--listen"])
    advertise = Address.parse(options["--advertise"]) if "--advertise" in options else None
    if kind == "node":
        from helios.runtime.node import NodeOptions, run_node

        run_node(NodeOptions(node, listen, advertise, options.get("--zone", ""), child=True), read, None)
    else:
        from helios.runtime.router import WorkerOptions, run_router

        worker = WorkerOptions(node, listen, int(options["--worker"]), options["--fingerprint"], advertise)
        run_router(worker, read.settings)


if __name__ == "__main__":
    sys.exit(0 if carry_out(lambda: run_child(sys.argv[1], sys.argv[2:])) else 2)
