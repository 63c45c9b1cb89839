"""What the site needs beside docs/: the documents and files of the repository that its pages lead to.

MkDocs calls these hooks (mkdocs.yml). In the repository links are relative paths, so that they work wherever files are
shown; on the site the README is the page `tour.md`, since docs/README.md is its first page.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_OUTSIDE = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "configs/*.yaml", "examples/sharding/*"]
_TOUR = "tour.md"
_LINK = re.compile(r"(\[[^\]]*\])\(([^)\s#]+)(#[^)\s]*)?\)")
_FENCED = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of docs/ and those outside it that belong to the site."""
    for pattern in _OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                files.append(File.generated(config, _on_site(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links that lead to where things are on the site; what is not on it is named without a link."""
    source = Path(page.file.abs_src_path or "")

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if "://" in target:
            return found[0]
        there = _on_site((source.parent / target).resolve())
        if files.get_file_from_path(there) is None:
            return text[1:-1]
        here = PurePosixPath(page.file.src_uri).parent
        return f"{text}({os.path.relpath(there, here)}{anchor})"

    parts = _FENCED.split(markdown)
    parts[::2] = [_LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def _on_site(path: Path) -> str:
    relative = path.relative_to(ROOT).as_posix()
    return _TOUR if relative == "README.md" else relative.removeprefix("docs/")
