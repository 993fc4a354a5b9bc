from __future__ import annotations

import errno
import os
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.evaluation import Figure, Section, write_report

if TYPE_CHECKING:
    from pathlib import Path

NASTY = """<script>alert("1")</script> & 'x' µm {{ title }}"""


class Page(HTMLParser):
    """What a browser makes of a page: its tags in order, and the text of each."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, "tags are nested"

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def written(folder: Path, *sections: Section, title: str = "A report", notice: str = "Synthetic.") -> Page:
    path = folder / "report.html"
    write_report(path, title=title, notice=notice, sections=sections)
    return Page(path)


def test_the_parts_stand_in_order(tmp_path: Path) -> None:
    page = written(
        tmp_path,
        Section("First", text=("one", "two"), rows=(("a", "1"), ("b", "2"))),
        Section("Second", figures=(Figure("figures/x.png", "An x."),)),
    )
    assert page.texts["title"] == page.texts["h1"] == ["A report"]
    assert page.texts["h2"] == ["First", "Second"]
    assert page.texts["p"] == ["Synthetic.", "one", "two"]
    assert page.texts["td"] == ["a", "1", "b", "2"]
    order = [tag for tag, _ in page.tags if tag in ("h1", "h2", "p", "table", "figure")]
    assert order == ["h1", "p", "h2", "p", "p", "table", "h2", "figure"]


def test_every_figure_is_shown_with_its_caption(tmp_path: Path) -> None:
    figures = tuple(Figure(f"figures/{i}.png", f"Number {i}.") for i in range(5))
    page = written(tmp_path, Section("Some", figures=figures[:3]), Section("Others", figures=figures[3:]))
    assert [item["src"] for item in page.of("img")] == [figure.file for figure in figures]
    assert [item["alt"] for item in page.of("img")] == [figure.caption for figure in figures]
    assert page.texts["figcaption"] == [figure.caption for figure in figures]


def test_all_text_is_escaped(tmp_path: Path) -> None:
    page = written(
        tmp_path,
        Section(
            NASTY, text=(NASTY,), rows=((NASTY, NASTY),), figures=(Figure('x" onerror="alert(1)', NASTY),)
        ),
        title=NASTY,
        notice=NASTY,
    )
    for tag in ("title", "h1", "h2", "figcaption"):
        assert "".join(page.texts[tag]) == NASTY, tag
    assert page.texts["p"] == [NASTY, NASTY]
    assert page.texts["td"] == [NASTY, NASTY]
    assert page.of("img") == [{"src": 'x" onerror="alert(1)', "alt": NASTY}]


def test_nothing_runs_and_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    page = written(tmp_path, Section("One", figures=(Figure("a.png", "A."),)))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "://" not in (tmp_path / "report.html").read_text()


def test_a_section_without_rows_has_no_table(tmp_path: Path) -> None:
    assert written(tmp_path, Section("One", text=("a",))).of("table") == []


def test_a_report_of_nothing(tmp_path: Path) -> None:
    page = written(tmp_path)
    assert page.texts["h1"] == ["A report"]
    assert page.of("h2") == []


def test_the_page_takes_the_place_of_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    written(tmp_path, title="old")
    assert written(tmp_path, title="new").texts["h1"] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_old_page_stays_if_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, title="old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match=r"^Cannot write to .+: the disk is full"):
        written(tmp_path, title="new")
    monkeypatch.undo()
    assert Page(tmp_path / "report.html").texts["h1"] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_fault_in_the_text_leaves_nothing(tmp_path: Path) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    with pytest.raises(RuntimeError, match="no text"):
        written(tmp_path, Section("One", text=(Unprintable(),)))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(
        UserError, match=r"^Cannot write to .*out: a file is in the way .*choose another output"
    ):
        written(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"out: it is read-only .*choose an output folder you may write to"):
        written(folder)
