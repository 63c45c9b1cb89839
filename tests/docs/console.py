"""The commands that a document shows, and what it says they print.

A fenced block marked `console` holds commands, on lines that begin with `$ ` (or `> ` where one goes on), and
what they print, up to the next command. HTML comments just above a block, which readers do not see, say
what a test has to know:

    <!-- not run: REASON -->          the block needs something that a test machine need not have
    <!-- output differs: REASON -->   what is printed depends on the moment and is not compared
    <!-- exit status N -->            the commands end with this status, not with 0
    <!-- after all moves -->          the reader has waited until no migration is active

A line `...` in an output stands for any lines.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_REMARK = re.compile(r"<!-- (not run|output differs|exit status|after all moves)(?:[: ]+(.*?))? -->")
_FENCE = re.compile(r"^```(\w*)\s*$")

# What changes from run to run, in the order in which it is replaced: identifiers, times, versions.
_VARYING = [
    (re.compile(r"\b[0-9a-f]{11}-[0-9a-f]{8}\b"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "<time>"),
    (re.compile(r"\b\d{10}\.\d+\b"), "<moment>"),
    (re.compile(r"\b\d+(\.\d+)? s ago\b|\bnow$|\bnow(?= )"), "<seen>"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min)\b"), "<span>"),
    (re.compile(r"\b\d+(\.\d+)? [KMG]?B\b"), "<size>"),  # as the server's allocator rounds
    (re.compile(r"\b(valkey|redis) \d+\.\d+\.\d+"), "<server>"),
    (re.compile(r'^epoch \d+$|(?<="epoch": )\d+|(?<="epoch":)\d+'), "<epoch>"),
    (re.compile(r'^coordinator \S+$|(?<="coordinator": )"[^"]+"|(?<="coordinator":)"[^"]+"'), "<coordinator>"),
    (re.compile(r'(?<="pause_ms": )[\d.]+|(?<="pause_ms":)[\d.]+'), "<span>"),
]


@dataclass(frozen=True)
class Step:
    """A command and what the document says that it prints."""

    command: str
    output: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Block:
    """The commands of one fence."""

    document: str
    steps: tuple[Step, ...]
    not_run: str = ""
    output_differs: str = ""
    status: int = 0
    after_moves: bool = False


def blocks(document: str) -> list[Block]:
    """The blocks of commands of a document, a path in the repository, in their order."""
    found: list[Block] = []
    remarks: dict[str, str] = {}
    fence: str | None = None
    inside: list[tuple[int, str]] = []
    for number, text in enumerate((ROOT / document).read_text(encoding="utf-8").splitlines(), 1):
        if fence is None:
            if opening := _FENCE.match(text):
                fence, inside = opening[1], []
            elif remark := _REMARK.fullmatch(text.strip()):
                remarks[remark[1]] = remark[2] or "yes"
            elif text.strip():
                assert not remarks, f"{document}:{number}: a remark stands above no block"
        elif text.strip() == "```":
            if fence == "console":
                found.append(_block(document, inside, remarks))
            remarks, fence = {}, None
        else:
            inside.append((number, text))
    assert fence is None, f"{document} ends inside a fence"
    return found


def _block(document: str, lines: list[tuple[int, str]], remarks: dict[str, str]) -> Block:
    steps: list[tuple[int, str, list[str]]] = []
    for number, text in lines:
        if text.startswith("$ "):
            steps.append((number, text[2:], []))
        elif text.startswith("> ") and not steps[-1][2]:
            steps[-1] = (steps[-1][0], steps[-1][1] + "\n" + text[2:], [])
        else:
            assert steps, f"{document}:{number}: a block of commands begins with `$ `"
            steps[-1][2].append(text)
    return Block(
        document,
        tuple(Step(command, tuple(output), number) for number, command, output in steps),
        not_run=remarks.get("not run", ""),
        output_differs=remarks.get("output differs", ""),
        status=int(remarks.get("exit status", "0")),
        after_moves="after all moves" in remarks,
    )


def plain(text: str) -> str:
    """A line of output without what changes from run to run; columns are as wide as their contents, so one space."""
    text = " ".join(text.split())
    for varying, word in _VARYING:
        text = varying.sub(word, text)
    return text


def difference(shown: tuple[str, ...], printed: str) -> str:
    """How the output differs from what the document shows; empty where it does not."""
    wanted = [plain(line) for line in shown if line.strip()]
    got = [plain(line) for line in printed.splitlines() if line.strip()]
    # Identifiers of the same millisecond sort as chance has it, and lists of them do too.
    by_chance = any("<id>" in line for line in wanted) and "..." not in wanted
    same = Counter(wanted) == Counter(got) if by_chance else _same(wanted, got)
    return "" if same else "\n".join(["the document shows:", *wanted, "", "it was:", *got])


def _same(wanted: list[str], got: list[str]) -> bool:
    if not wanted:
        return not got
    if wanted[0] == "...":
        return any(_same(wanted[1:], got[start:]) for start in range(len(got) + 1))
    return bool(got) and wanted[0] == got[0] and _same(wanted[1:], got[1:])
