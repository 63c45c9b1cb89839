"""The documents: their commands do what they show, their links lead somewhere, and what they list is complete."""

from __future__ import annotations

import gzip
import re
import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import Mock

import click
import pytest
from tests.docs.console import ROOT, Block, blocks, difference
from tests.docs.workplace import workplace
from tools import command_table, stages

from helios.api.app import create_app
from helios.cli.client import cli
from helios.model.setting_info import all_settings, sections
from helios.resp.commands import TABLE, How
from helios.runtime.settings import variable

# The pages of the guide, in the order in which they are read and their commands run.
GUIDE = tuple(
    f"docs/{name}.md"
    for name in (
        "GETTING_STARTED",
        "GROWING_AND_SHRINKING",
        "REBALANCING",
        "IMPORTING",
        "USERS_AND_TLS",
        "OPERATING",
        "REST",
        "CLIENTS",
        "TROUBLESHOOTING",
    )
)
# Each is followed from an empty folder.
TOURS = [("README.md",), GUIDE, ("docs/SHARDING_QUICK_REFERENCE.md",), ("docs/BACKUP.md",)]
EXAMPLES = "examples/sharding/README.md"  # run by test_python_api.py
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in [ROOT / "README.md", ROOT / EXAMPLES, *(ROOT / "docs").rglob("*.md")]
)

# Blocks that are not run, by their first command. The reason stands above each in its document.
NOT_RUN = {
    ("README.md", "redis-cli -p 6380 get user:0042"),
}

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@pytest.mark.processes
@pytest.mark.parametrize("tour", TOURS, ids=lambda tour: Path(tour[0]).stem)
def test_the_commands_do_what_is_shown(tour: Sequence[str], tmp_path: Path) -> None:
    with workplace(tmp_path) as place:
        for document in tour:
            for block in blocks(document):
                if not block.not_run:
                    place.run(block)


def test_what_is_not_run_is_known() -> None:
    left_out = [block for document in DOCUMENTS for block in blocks(document) if block.not_run]
    assert {(block.document, block.steps[0].command) for block in left_out} == NOT_RUN


def test_only_documents_that_are_run_show_commands() -> None:
    run = {document for tour in TOURS for document in tour}
    assert {document for document in DOCUMENTS if blocks(document)} <= {*run, EXAMPLES}


def test_the_overview_leads_to_the_pages_of_the_guide_in_their_order() -> None:
    text = (ROOT / "docs" / "SHARDING.md").read_text(encoding="utf-8")
    assert tuple(f"docs/{page}" for page in re.findall(r"^\| \[[^\]]+\]\((\w+\.md)\) \|", text, re.MULTILINE)) == GUIDE


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for link in _LINK.findall(_FENCED.sub("", (ROOT / document).read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), f"{document} links to {link}"
        if anchor:
            assert anchor in _anchors(target), f"{document} links to {link}"


def _anchors(path: Path) -> set[str]:
    """The names that headings are linked by."""
    text = _FENCED.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_decision_is_numbered_and_listed() -> None:
    folder = ROOT / "docs" / "adr"
    decisions = sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")
    assert [int(name[:3]) for name in decisions] == list(range(1, len(decisions) + 1))
    for name in decisions:
        title = (folder / name).read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        assert title.startswith(f"{name[:3]}: ")
        assert f"| [{name[:3]}]({name}) | {title[5:]} |" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_list_of_documents_is_whole() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in text, f"{path.name} is missing"


def test_make_has_what_the_documents_name() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {word for document in DOCUMENTS for word in re.findall(r"`make ([\w-]+)", (ROOT / document).read_text())}
    assert {"up", "test", "check"} <= named
    assert named <= set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))


def test_make_up_is_helios_up() -> None:
    """The commands run `helios up` where a document shows `make up`."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^up: \$\(STAMP\)\n\t@exec \$\(BIN\)/helios up \$\(ARGS\)\n$", makefile, re.MULTILINE)


def test_every_verb_is_explained_and_no_other() -> None:
    text = (ROOT / "docs" / "OPERATING.md").read_text(encoding="utf-8")
    table = text[text.index("\n## The command line") : text.index("\n## What happens on failures")]
    for verb in cli.commands:
        assert re.search(rf"^\| .*`{verb}\b.* \|$", table, re.MULTILINE), f"{verb} is missing"
    for document in DOCUMENTS:
        for verb in re.findall(r"`helios-cli ([a-z]+)", (ROOT / document).read_text(encoding="utf-8")):
            assert verb in cli.commands, f"{document} names helios-cli {verb}"


def test_the_reference_of_settings_is_what_the_code_says() -> None:
    written = runpy.run_path(str(ROOT / "tools" / "settings_reference.py"))["reference"]()
    assert (ROOT / "docs" / "SETTINGS.md").read_text(encoding="utf-8") == written, "run tools/settings_reference.py"
    for name, info in all_settings().items():
        entry = written[written.index(f"### {name}\n") :].partition("\n### ")[0]
        assert variable(name) in entry
        assert info.description in entry


def test_options_settings_and_programs_that_are_named_exist() -> None:
    everywhere = {"--help", "--json", "--host", "--port", "--version"}
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for verb, rest in re.findall(r"`helios-cli ([a-z]+)\b([^`]*)`", text):
            command = cli.commands[verb]
            known = {option for one in _with_subcommands(command) for param in one.params for option in param.opts}
            named = set(re.findall(r"(?<= )--[a-z][a-z-]*", rest.partition(" -- ")[0]))
            assert named <= known | everywhere, f"{document} names {named - known} of {verb}"
        for name in re.findall(rf"`((?:{'|'.join(sections())})\.(?!log`)[a-z_]+)`", text):
            assert name in all_settings(), f"{document} names the setting {name}"
        for program in re.findall(r"python -m (benchmarks\.\w+)", text):
            assert (ROOT / f"{program.replace('.', '/')}.py").exists(), f"{document} names {program}"
        for path in re.findall(r"python ((?:benchmarks|examples)/[\w/]+\.py)", text):
            assert (ROOT / path).exists(), f"{document} names {path}"


def _with_subcommands(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        yield from command.commands.values()


def test_every_path_of_rest_is_explained() -> None:
    async def health() -> Sequence[str]:
        return ()

    app = create_app(Mock(), Mock(), health)
    paths = {path for path in app.openapi()["paths"] if path.startswith("/api/v1")}
    text = (ROOT / "docs" / "REST.md").read_text(encoding="utf-8")
    assert len(paths) > 10
    for path in paths:
        shown = path.removeprefix("/api/v1")
        assert re.search(rf"{re.escape(shown)}[`?]", text), f"{shown} is missing"


def test_the_commands_that_are_refused_are_listed() -> None:
    text = (ROOT / "docs" / "CLIENTS.md").read_text(encoding="utf-8")
    start = text.index("```text\n", text.index("\nRefused, since")) + len("```text\n")
    listed = {name.strip() for name in text[start : text.index("```", start)].replace("\n", " ").split(",")} - {""}
    names = {command.name for command in TABLE.values() if command.how is How.REFUSED}
    # A command that is treated so as a whole stands for all its subcommands.
    whole = {name for name in names if name.partition("|")[0] not in names - {name}}
    assert listed == {name.replace("|", " ").upper() for name in whole}


def test_the_table_of_commands_is_current() -> None:
    wanted = (ROOT / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
    assert wanted == command_table.document(), "write it anew: python tools/command_table.py"


def test_the_stages_of_a_fence_are_those_of_the_control() -> None:
    page = (ROOT / "docs" / "MOVING_KEYS.md").read_text(encoding="utf-8")
    assert stages.END in page
    assert page == stages.written(page), "write it anew: python tools/stages.py"


def test_the_example_data_is_what_its_program_writes() -> None:
    folder = ROOT / "examples" / "sharding"
    content = runpy.run_path(str(folder / "make_shop.py"))["content"]
    assert gzip.decompress((folder / "shop.tsv.gz").read_bytes()) == content()


def test_a_document_that_is_wrong_is_noticed() -> None:
    shown = ("ID  KEYS  LAST SEEN", "a  1,024  1.5 s ago")
    assert not difference(shown, "ID KEYS  LAST SEEN\na     1,024  now\n")
    assert difference(shown, "ID KEYS  LAST SEEN\na     1,025  now\n")
    assert difference(shown, "ID KEYS  LAST SEEN\n")
    assert not difference(("{", "...", "}"), "{\n1\n2\n}\n")
    assert difference(("{", "...", "}"), "{\n1\n2\n")
    assert difference((), "something\n")
    assert not difference(("took 1.3 s", "id 1a20608a89d-deac94b0"), "took 25 s\nid 1a20608a8a5-8e587a98\n")


def test_blocks_are_read_with_their_remarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remarks = "<!-- exit status 1 -->\n<!-- output differs: why -->\n"
    text = f"text\n{remarks}```console\n$ a \\\n> b\nc\n$ d\n```\n```sh\n$ e\n```\n"
    (tmp_path / "a.md").write_text(text)
    monkeypatch.setattr("tests.docs.console.ROOT", tmp_path)
    (block,) = blocks("a.md")
    assert isinstance(block, Block)
    assert [(step.command, step.output) for step in block.steps] == [("a \\\nb", ("c",)), ("d", ())]
    assert (block.status, block.output_differs, block.not_run) == (1, "why", "")
