"""`make docs` makes a site of the documents that needs nothing from elsewhere."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.docs.console import ROOT


class Loaded(HTMLParser):
    """What a browser fetches when it shows a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "link" and named.get("rel") in ("stylesheet", "icon", "preconnect", "modulepreload"):
            self.addresses.append(named.get("href") or "")
        elif tag in ("script", "img", "iframe", "source"):
            self.addresses.append(named.get("src") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    program = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder


def test_every_document_is_a_page(site: Path) -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        page = path.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / (page.parent / "index.html" if page.stem == "README" else page)).exists()
    assert (site / "tour.html").exists()


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        loaded = Loaded(page).addresses
        assert any(loaded), page
        for address in loaded:
            assert "//" not in address, f"{page.name} loads {address}"


def test_links_to_the_repository_lead_to_pages_of_the_site(site: Path) -> None:
    tour = (site / "tour.html").read_text(encoding="utf-8")
    assert 'href="SHARDING.html"' in tour
    assert 'href="tour.html"' in (site / "index.html").read_text(encoding="utf-8")
    assert (site / "configs" / "default.yaml").exists()
