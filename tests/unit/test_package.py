"""What `import helios` gives and costs."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import helios
from helios.admin import views

HEAVY = ("asyncio", "pydantic", "hiredis", "fastapi", "typer", "rich", "uvloop", "helios.local", "helios.client")


def loaded(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a program."""
    words = [sys.executable, "-c", f"import sys; {program}; print(*sys.modules)"]
    return set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())


def test_importing_costs_next_to_nothing() -> None:
    assert not set(HEAVY) & loaded("import helios")
    assert not {"asyncio", "pydantic", "hiredis"} & loaded("import helios; helios.Ring(['a']).owner('key')")


def test_a_node_holds_no_library_in_memory_that_it_does_not_use() -> None:
    """Each node has an agent and a router for good, so that a megabyte of each counts."""
    people = {"typer", "click", "rich", "yaml", "fastapi", "starlette", "uvicorn", "httpx", "anyio", "watchfiles"}
    people |= {"pydantic", "prometheus_client", "importlib.metadata"}
    rare = {"shutil", "bz2", "lzma", "difflib"}
    router = loaded("import helios.runtime.child, helios.runtime.router")
    assert not router & {*people, *rare, "helios.coordinator", "helios.api"}
    node = loaded("import helios.runtime.child, helios.runtime.node")
    serving = {"helios.access.authenticator", "helios.resp.commands", "helios.admin.client"}  # what routers do
    assert not node & {*people, *rare, *serving, "helios.router", "helios.api"}


def test_addresses_are_looked_up_without_the_tables_for_international_names() -> None:
    assert "encodings.idna" not in loaded("from helios.node.ports import resolve; resolve('127.0.0.1', 0)")


def test_what_a_process_has_imported_is_not_looked_at_for_garbage() -> None:
    program = """
import gc
from helios.runtime.lifecycle import run

async def main(stop):
    print(gc.isenabled(), gc.get_freeze_count() > 10_000)

gc.disable()
run(main)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "True True\n"


def test_the_plugin_does_not_burden_those_who_do_not_use_it() -> None:
    before = loaded("import pytest")
    assert loaded("import pytest, helios.pytest_plugin") - before <= {"helios", "helios.pytest_plugin"}


def test_every_name_is_there_and_says_what_it_gives() -> None:
    assert dir(helios) == sorted(dir(helios))
    for name in helios.__all__:
        value = getattr(helios, name)
        assert inspect.getdoc(value), f"{name} is not documented"
        assert name in dir(helios)
    with pytest.raises(AttributeError, match="nothing_such"):
        helios.nothing_such  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_are_told_of_every_name() -> None:
    stub = ast.parse(Path(helios.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    told = {
        alias.asname: (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == {name: (home, name) for home, names in helios._HOMES.items() for name in names}  # type: ignore[attr-defined]


def test_every_kind_of_result_has_a_name() -> None:
    kinds = {
        name for name, value in vars(views).items() if inspect.isclass(value) and value.__module__ == views.__name__
    }
    assert kinds <= set(helios.__all__)


def test_public_methods_are_documented() -> None:
    for name in ("AdminClient", "AsyncAdminClient", "LocalCluster", "Ring", "Placement"):
        for method, value in vars(getattr(helios, name)).items():
            if not method.startswith("_"):
                assert inspect.getdoc(value), f"{name}.{method} is not documented"
