"""`helios simulate`: what nodes, keys and steps would come to, without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from helios.cli.keyspace import Keyspace
    from helios.cli.simulation import Report, Simulation, Step

_BAR = 10
_MAX_NODES = 10_000
_MAX_POINTS = 5_000_000


def simulate(
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", help="Nodes shard-1 to shard-N.")] = 10,
    keys: Annotated[int, typer.Option("--keys", metavar="N", help="How many keys to draw.")] = 1_000_000,
    distribution: Annotated[
        str, typer.Option("--distribution", metavar="KIND", help="uniform, zipf (operations) or sized (bytes).")
    ] = "uniform",
    file: Annotated[
        str,
        typer.Option(
            "--file", metavar="FILE", help="Keys, keys and values as TSV, or a dump, also .gz; not drawn then."
        ),
    ] = "",
    step: Annotated[
        list[str] | None,
        typer.Option(
            "--step",
            metavar="STEP",
            help="add:ID[=WEIGHT], remove:ID, reweight:ID=WEIGHT, rebalance[:STRATEGY]; again for more, in order.",
        ),
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option("--weight", metavar="ID=WEIGHT", help="Weight of a first node; again for more.")
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="WHAT", help="Balance keys, bytes or ops.")] = "keys",
    strategy: Annotated[
        str, typer.Option("--strategy", metavar="NAME", help="minimize_movement or uniform, where a step names none.")
    ] = "minimize_movement",
    threshold: Annotated[
        float, typer.Option("--threshold", metavar="PART", help="Deviation that minimize_movement leaves.")
    ] = 0.3,
    virtual_nodes: Annotated[
        int, typer.Option("--virtual-nodes", metavar="N", help="Ring points of a node of weight 1.")
    ] = 150,
    exponent: Annotated[float, typer.Option("--exponent", metavar="S", help="Steepness of zipf.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed draws the same keys.")] = 1,
    top: Annotated[
        int, typer.Option("--top", metavar="N", help="Nodes to show; the others in between are left out.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON.")] = False,
) -> None:
    """Show balance and movement of a cluster after each step, without a server.

    Example: helios simulate --nodes 10 --keys 1000000 --step add:shard-11 --step rebalance:uniform
    """
    from helios.cli import output
    from helios.errors import HeliosError, InvalidInput

    try:
        for name, value, most in (
            ("--nodes", nodes, _MAX_NODES),
            ("--keys", keys, 1_000_000_000),
            ("--virtual-nodes", virtual_nodes, 10_000),
            ("--top", top, _MAX_NODES),
        ):
            if not 1 <= value <= most:
                raise InvalidInput(f"{name} is {value} but must be from 1 to {most:,}")
        if not 0.001 <= threshold <= 10:
            raise InvalidInput(f"--threshold is {threshold:g} but must be from 0.001 to 10 (0.3 is 30 %)")
        if not 0 <= exponent <= 10:
            raise InvalidInput(f"--exponent is {exponent:g} but must be from 0 to 10")
        weights = _weights(nodes, weight or [])
        steps, simulation, keyspace = _prepared(
            weights, virtual_nodes, step or [], file, (distribution, keys, seed, exponent), (by, strategy, threshold)
        )
        _run(simulation, steps, keyspace, by, top, as_json)
    except HeliosError as error:
        output.tell(f"helios: {error}")
        raise typer.Exit(2) from error


def _weights(nodes: int, given: list[str]) -> dict[str, float]:
    from helios.cli.simulation import weight_of
    from helios.errors import InvalidInput

    weights = {f"shard-{number}": 1.0 for number in range(1, nodes + 1)}
    for text in given:
        shard, equals, value = text.partition("=")
        if not equals or shard not in weights:
            raise InvalidInput(f"--weight {text!r} should be one of shard-1 to shard-{nodes}, '=' and a number")
        weights[shard] = weight_of(value)
    return weights


def _prepared(
    weights: dict[str, float],
    virtual_nodes: int,
    step_texts: list[str],
    file: str,
    draw: tuple[str, int, int, float],
    aim: tuple[str, str, float],
) -> tuple[list[Step], Simulation, Keyspace]:
    from helios.cli.keyspace import Distribution, drawn, read
    from helios.cli.simulation import Simulation, Step, edges_of_all, strategy_named
    from helios.errors import InvalidInput
    from helios.model.balancing import Measure

    kind, count, seed, exponent = draw
    by, strategy, threshold = aim
    if kind not in list(Distribution):
        raise InvalidInput(f"--distribution {kind!r} is unknown: use {', '.join(Distribution)}")
    if by not in list(Measure):
        raise InvalidInput(f"--by {by!r} is unknown: use {', '.join(Measure)}")
    chosen = strategy_named(strategy)
    steps = [Step.parse(text) for text in step_texts]
    if sum(weights.values()) * virtual_nodes > _MAX_POINTS:
        raise InvalidInput(f"these nodes have more than {_MAX_POINTS:,} points: use fewer, or fewer --virtual-nodes")
    edges = edges_of_all(weights, virtual_nodes, steps)
    keyspace = read(file, edges) if file else drawn(Distribution(kind), count, seed, exponent, edges)
    return steps, Simulation(weights, virtual_nodes, edges, keyspace, Measure(by), chosen, threshold), keyspace


def _run(simulation: Simulation, steps: list[Step], keyspace: Keyspace, by: str, top: int, as_json: bool) -> None:
    from helios.cli import output

    if as_json:
        reports = [simulation.start(), *(simulation.take(step) for step in steps)]
        output.write_json({"keys": keyspace.title, "by": by, "steps": [report.as_dict() for report in reports]})
        return
    report = simulation.start()
    output.write(f"{keyspace.title} on {len(report.weights)} nodes, {report.points:,} ring points; balanced by {by}\n")
    output.write(_shown(report, by, top))
    for step in steps:
        report = simulation.take(step)
        output.write(f"\n{_movement(report, by)}\n")
        output.write(_shown(report, by, top))
    output.write(
        f"\nThe ring takes {report.ring_bytes / 1024:,.1f} KiB of memory in a router, "
        f"{report.ring_bytes / 1024 / len(report.weights):,.2f} KiB a node."
    )


def _shown(report: Report, by: str, top: int) -> str:
    """The nodes, the fullest first, and how evenly they stand."""
    from helios.cli import output

    deviations = report.standing.deviations
    order = sorted(report.weights, key=lambda shard: (-deviations[shard], shard))
    upper, lower = (order, []) if len(order) <= top else (order[: -(-top // 2)], order[len(order) - top // 2 :])
    weighted = len(set(report.weights.values())) > 1
    headings = ["NODE", ">SHARE", ">KEYS", *([f">{by.upper()}"] if by != "keys" else []), ">DEVIATION", "", ">WEIGHT"]
    rows = [_row(report, shard, deviations[shard], by) for shard in [*upper, *lower]]
    if not weighted:
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    lines = output.table(headings, rows).split("\n")
    if left_out := len(order) - len(upper) - len(lower):
        lines.insert(1 + len(upper), f"… {left_out:,} more …")
    lines.append(
        f"max {max(deviations.values()):+.1%}, min {min(deviations.values()):+.1%}, cv {report.standing.cv:.1%} "
        "of the fair share"
    )
    return "\n".join(lines)


def _row(report: Report, shard: str, deviation: float, by: str) -> list[str]:
    load = report.standing.loads[shard]
    bar = "█" * min(2 * _BAR, round(_BAR * (1 + deviation))) + ("…" if deviation > 1 else "")
    cells = [shard, f"{load / (report.total or 1.0):.2%}", f"{report.keys[shard]:,.0f}"]
    if by != "keys":
        cells.append(f"{load:,.0f}")
    return [*cells, f"{deviation:+.1%}", bar, f"{report.weights[shard]:g}"]


def _movement(report: Report, by: str) -> str:
    """What a step has moved, beside the least that it could have."""
    total = report.total or 1.0
    if report.step.startswith("rebalance") and report.plan is None:
        return f"{report.step}: nothing to do; every node is in its band, or no move would help enough"
    moved = f"{report.moved_keys:,.0f} keys moved between {report.pairs:,} pairs of nodes, {report.moved / total:.2%}"
    if report.plan is None:
        return f"{report.step}: {moved} of all {by} (the fair shares themselves shift by {report.least / total:.2%})"
    text = f"{report.step}: {moved} of all {by} (the least possible is {report.least / total:.2%})"
    text += f", planned in {report.planning_s:.2f} s"
    if unreachable := len(report.plan.out_of_reach):
        text += f"\n{unreachable:,} nodes have one arc that is more than a fair share, and arcs stay whole"
    return text
