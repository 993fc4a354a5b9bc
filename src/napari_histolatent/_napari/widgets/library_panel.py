from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QGridLayout,
    QLabel,
    QLineEdit,
    QListView,
    QListWidget,
    QListWidgetItem,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_histolatent._napari.widgets._qt import note, pixmap_of, row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

THUMBNAIL_PX = 88
NEIGHBOURS = 6
_NEIGHBOUR_PX = 80
_COLUMNS = 3
_ID = Qt.ItemDataRole.UserRole
_ANY_TAG = "any tag"
EMPTY = "The library is empty: give the tile you are working on a name, and press Add."
NO_MATCH = "Nothing in the library has these words and this tag."


@dataclass(frozen=True)
class Shelf:
    """A point of the library as the list shows it."""

    id: str
    name: str
    tags: tuple[str, ...]
    source: str = ""
    added: str = ""
    is_own: bool = True
    """Whether it belongs to the generator that is chosen; only such a one can be opened."""


def tags_of(text: str) -> list[str]:
    """Return the tags of a line in which they stand between commas."""
    return [tag for part in text.split(",") if (tag := " ".join(part.split()))]


def narrow(box: QComboBox) -> None:
    """Have a box be as wide as there is room, not as its longest entry."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(6)


class LibraryPanel(QWidget):
    """The latent library: named and tagged points with their pictures, what they are near to, and a search."""

    search_changed = Signal()
    add_requested = Signal()
    tray_requested = Signal()
    cancel_requested = Signal()
    opened = Signal(str)
    """Id of the point to work on."""
    selection_changed = Signal()
    renamed = Signal(str, str)
    """Id and new name."""
    retagged = Signal(object, object, object)
    """Ids, and the tags that all of them get and lose."""
    remove_requested = Signal(object)
    """Ids."""
    undo_requested = Signal()
    neighbours_requested = Signal(str)
    patches_chosen = Signal(str, str)
    """Id of a point, and the folder of a dataset in which to look for real patches near to it."""
    folder_chosen = Signal(str)
    """Another library's folder; empty: the program's own."""

    def __init__(self) -> None:
        super().__init__()
        self.folder_note = note()
        self.other_button, self.own_button = QPushButton("Open another…"), QPushButton("Back to mine")
        self.name_edit, self.tags_edit = QLineEdit(), QLineEdit()
        self.add_button, self.tray_button = QPushButton("Add"), QPushButton("Add the tray")
        self.progress, self.cancel_button = QProgressBar(), QPushButton("Cancel")
        self.search_edit, self.tag_box = QLineEdit(), QComboBox()
        self.list = QListWidget()
        self.list_note = note(EMPTY)
        self.open_button, self.rename_button = QPushButton("Open"), QPushButton("Rename")
        self.remove_button, self.undo_button = QPushButton("Remove"), QPushButton("Put back")
        self.own_tags_edit = QLineEdit()
        self.neighbours_button = QPushButton("Nearest real patches")
        self.neighbours_note = note()
        self._neighbours = [(QLabel(), note()) for _ in range(NEIGHBOURS)]
        self._neighbour_box = self._grid()
        self.message = note()
        self._explain()
        self._prepare_list()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (
            row(self.name_edit, self.add_button, stretch=0),
            row(self.tags_edit, self.tray_button, stretch=0),
            row(self.progress, self.cancel_button, stretch=0),
            row(self.search_edit, self.tag_box, stretch=0),
            self.list,
            self.list_note,
            row(self.open_button, self.rename_button),
            row(self.remove_button, self.undo_button),
            row(QLabel("Tags"), self.own_tags_edit, stretch=1),
            self.neighbours_button,
            self.neighbours_note,
            self._neighbour_box,
            self.message,
            self.folder_note,
            row(self.other_button, self.own_button),
        ):
            layout.addWidget(widget)
        self._connect()
        self._shelves: dict[str, Shelf] = {}
        self._is_filling = False
        self._has_patches = True
        self._told: list[str] = []
        self.set_ready(has_generator=False, can_add=False)
        self.set_tray(0)
        self.set_progress(None)
        self.set_undo(None)
        self.set_neighbours([], "")
        self.set_has_patches(True)
        self.say("")
        self._on_selection()

    # What is shown

    def set_folder(self, folder: str, *, is_own: bool) -> None:
        """Show which library it is: its name, and on request where it lies."""
        self.folder_note.setText("Library: your own" if is_own else f"Library: {Path(folder).name or folder}")
        self.folder_note.setToolTip(f"<qt>{escape(folder)}</qt>")
        self.own_button.setEnabled(not is_own)

    def set_has_patches(self, has_patches: bool, *, are_own: bool = True) -> None:
        """Say whether there are real patches to compare with, and whether they are those of the generator's own run.

        Without any, a dataset is asked for.
        """
        self._has_patches = has_patches
        self.neighbours_button.setText("Nearest real patches" if has_patches else "Nearest real patches…")
        own = (
            "Look among the real tissue that the generator learnt from for what is most alike: is the picture "
            "new, or a copy of a training patch? The first time takes a while."
        )
        others = (
            "Look among the real tissue of the dataset that was chosen for what is most alike. It need not be what this "
            "generator learnt from, so that nothing alike is found there does not prove the picture to be new. The first "
            "time takes a while."
        )
        none = (
            "The patches that this generator learnt from are not on this computer; those of a generator that comes "
            "with the plugin never are. Choose the folder of a dataset with the same classes and patch size, and the "
            "picture is compared with the real tissue in it."
        )
        self.neighbours_button.setToolTip(none if not has_patches else own if are_own else others)

    def set_entries(self, shelves: Sequence[Shelf], *, is_searched: bool) -> None:
        """List points; what was selected stays so. No signal, unless the selection is gone."""
        before, kept = set(self.selected), {}
        for i in range(self.list.count()):
            item = self.list.item(i)
            kept[item.data(_ID)] = item.icon()
        self._is_filling = True
        self.list.clear()
        self._shelves = {shelf.id: shelf for shelf in shelves}
        for shelf in shelves:
            item = QListWidgetItem(shelf.name)
            item.setData(_ID, shelf.id)
            item.setToolTip(_tip(shelf))
            item.setIcon(kept.get(shelf.id, QIcon()))
            item.setSizeHint(QSize(THUMBNAIL_PX + 12, THUMBNAIL_PX + 34))
            flags = Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsEditable
            item.setFlags(flags)
            if not shelf.is_own:
                item.setForeground(self.palette().placeholderText())
            self.list.addItem(item)
            item.setSelected(shelf.id in before)
        self._is_filling = False
        self.list_note.setText("" if shelves else NO_MATCH if is_searched else EMPTY)
        self.list_note.setVisible(not shelves)
        self._on_selection()

    def set_thumbnails(self, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Show the pictures of points that are listed; they say SYNTHETIC themselves."""
        self._is_filling = True
        for i in range(self.list.count()):
            item = self.list.item(i)
            if item.data(_ID) in pictures:
                item.setIcon(QIcon(pixmap_of(pictures[item.data(_ID)], THUMBNAIL_PX)))
        self._is_filling = False

    def set_tags(self, counts: Mapping[str, int]) -> None:
        """Offer the tags there are, with how many points each has. No signal."""
        before = self.tag
        self.tag_box.blockSignals(True)
        self.tag_box.clear()
        self.tag_box.addItem(_ANY_TAG, None)
        for tag, n in counts.items():
            self.tag_box.addItem(f"{tag} ({n})", tag)
        self.tag_box.setCurrentIndex(max(0, self.tag_box.findData(before)))
        self.tag_box.blockSignals(False)

    def set_ready(self, *, has_generator: bool, can_add: bool) -> None:
        """Switch on what has a meaning now."""
        self._has_generator = has_generator
        self.add_button.setEnabled(can_add)
        self.tray_button.setEnabled(has_generator)
        self._on_selection()

    def set_tray(self, n: int) -> None:
        """Say how many tiles the tray has; without any the button is not shown."""
        self.tray_button.setVisible(n > 0)
        self.tray_button.setText(f"Add the tray ({n})")

    def set_progress(self, done: tuple[int, int] | None) -> None:
        """Show how far long work is, (done, in all); None: none is going on."""
        for widget in (self.progress, self.cancel_button):
            widget.setVisible(done is not None)
        if done is not None:
            self.progress.setRange(0, done[1])
            self.progress.setValue(done[0])

    def set_undo(self, what: str | None) -> None:
        """Say what can be put back; None: nothing was removed."""
        self.undo_button.setEnabled(what is not None)
        self.undo_button.setToolTip(
            "Put back what was removed last; nothing was removed yet."
            if what is None
            else f"<qt>Put back {escape(what)}</qt>"
        )

    def set_neighbours(self, found: Sequence[tuple[NDArray[np.uint8], str, str]], words: str) -> None:
        """Show real patches, each with a caption and where it is from, and a sentence on them."""
        self._neighbour_box.setVisible(bool(found))
        self.neighbours_note.setText(words)
        self.neighbours_note.setVisible(bool(words))
        for i, (picture, caption) in enumerate(self._neighbours):
            shown = i < len(found)
            picture.setVisible(shown)
            caption.setVisible(shown)
            if shown:
                picture.setPixmap(pixmap_of(found[i][0], _NEIGHBOUR_PX))
                picture.setToolTip(f"<qt>Real tissue: {escape(found[i][2])}</qt>")
                caption.setText(found[i][1])

    def say(self, sentence: str) -> None:
        """Say what was done."""
        self.message.setText(sentence)
        self.message.setVisible(bool(sentence))

    # What the user set

    @property
    def tag(self) -> str | None:
        """The tag that is asked for, None for any."""
        return self.tag_box.currentData() if self.tag_box.count() else None

    @property
    def selected(self) -> list[str]:
        """Ids of the selected points, in the order of the list."""
        items = (self.list.item(i) for i in range(self.list.count()))
        return [item.data(_ID) for item in items if item.isSelected()]

    # Inside

    def _explain(self) -> None:
        self.name_edit.setPlaceholderText("name for the tile you work on")
        self.name_edit.setToolTip("Under this name the point is kept, and is called in arithmetic.")
        self.tags_edit.setPlaceholderText("tags, between commas")
        self.tags_edit.setToolTip(
            "Points with the same tag make a group: tag some as normal and some as tumour to go from one to the other."
        )
        self.add_button.setToolTip(
            "Keep the latent vector of the tile you work on: the numbers from which the generator draws it. "
            "A tile of the slide has one after Reverse search."
        )
        self.tray_button.setToolTip(
            "Search the latent vector of every tile in the Patches dock's tray and keep them all, each tagged "
            "with its class: groups for arithmetic and directions. It takes some seconds."
        )
        self.cancel_button.setToolTip("Stop what is going on; nothing of it is kept.")
        self.search_edit.setPlaceholderText("search names, tags, slides")
        self.search_edit.setClearButtonEnabled(True)
        self.search_edit.setToolTip("Show only points whose name, tags or slide have all of these words.")
        self.tag_box.setToolTip("Show only points with this tag.")
        self.open_button.setToolTip(
            "Draw this point and work on it, as if it had just been searched; a double click does the same."
        )
        self.rename_button.setToolTip("Give the selected point another name; F2 does the same.")
        self.remove_button.setToolTip("Take the selected points out of the library; Put back undoes it.")
        self.own_tags_edit.setToolTip(
            "Tags of the selected point, between commas; Enter keeps the change. Of several points it shows the tags "
            "that all of them have, and what you change is changed in all of them."
        )
        self.other_button.setToolTip("Use the latent library in another folder, a colleague's for instance.")
        self.own_button.setToolTip("Go back to the library that the program keeps for you.")

    def _prepare_list(self) -> None:
        self.list.setViewMode(QListView.ViewMode.IconMode)
        self.list.setResizeMode(QListView.ResizeMode.Adjust)
        self.list.setMovement(QListView.Movement.Static)
        self.list.setUniformItemSizes(True)
        self.list.setWordWrap(False)
        self.list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.list.setIconSize(QSize(THUMBNAIL_PX, THUMBNAIL_PX))
        self.list.setSpacing(2)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.list.setEditTriggers(QAbstractItemView.EditTrigger.EditKeyPressed)
        self.list.setMinimumHeight(2 * (THUMBNAIL_PX + 40))
        self.list.setMaximumHeight(3 * (THUMBNAIL_PX + 40))
        self.list.setAccessibleName("Points of the latent library")
        narrow(self.tag_box)
        self.tag_box.setMaximumWidth(140)

    def _connect(self) -> None:
        self.search_edit.textChanged.connect(lambda _: self.search_changed.emit())
        self.tag_box.activated.connect(lambda _: self.search_changed.emit())
        self.name_edit.returnPressed.connect(self.add_button.click)
        self.add_button.clicked.connect(self.add_requested)
        self.tray_button.clicked.connect(self.tray_requested)
        self.cancel_button.clicked.connect(self.cancel_requested)
        self.list.itemDoubleClicked.connect(self._open)
        self.list.itemSelectionChanged.connect(self._on_selection)
        self.list.itemChanged.connect(self._on_edited)
        self.open_button.clicked.connect(lambda: self._open(self._one()))
        self.rename_button.clicked.connect(lambda: self.list.editItem(self._one()))
        self.remove_button.clicked.connect(lambda: self.remove_requested.emit(self.selected))
        self.undo_button.clicked.connect(self.undo_requested)
        self.own_tags_edit.returnPressed.connect(self._on_tags)
        self.neighbours_button.clicked.connect(self._ask_neighbours)
        self.other_button.clicked.connect(self._choose_folder)
        self.own_button.clicked.connect(lambda: self.folder_chosen.emit(""))

    def _grid(self) -> QWidget:
        box = QWidget()
        grid = QGridLayout(box)
        grid.setContentsMargins(0, 0, 0, 0)
        for i, (picture, caption) in enumerate(self._neighbours):
            # A long name of a class must not widen the dock.
            caption.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
            line, column = 2 * (i // _COLUMNS), i % _COLUMNS
            grid.addWidget(picture, line, column, Qt.AlignmentFlag.AlignHCenter)
            grid.addWidget(caption, line + 1, column)
        return box

    def _one(self) -> Any:
        return self.list.selectedItems()[0]

    def _open(self, item: Any) -> None:
        # A point of another generator is opened, too: what is wrong with it is then said.
        self.opened.emit(item.data(_ID))

    def _on_edited(self, item: Any) -> None:
        shelf = self._shelves.get(item.data(_ID))
        if self._is_filling or shelf is None or item.text() == shelf.name:
            return
        # Until the library has it, the name is the one that it has.
        text = item.text()
        self._is_filling = True
        item.setText(shelf.name)
        self._is_filling = False
        self.renamed.emit(shelf.id, text)

    def _on_tags(self) -> None:
        typed, before = tags_of(self.own_tags_edit.text()), self._shared_tags()
        added = [tag for tag in typed if tag not in before]
        removed = [tag for tag in before if tag not in typed]
        if added or removed:
            self.retagged.emit(self.selected, added, removed)

    def _shared_tags(self) -> list[str]:
        """Return the tags that all selected points have."""
        chosen = [self._shelves[i] for i in self.selected]
        return [tag for tag in chosen[0].tags if all(tag in item.tags for item in chosen)] if chosen else []

    def _on_selection(self) -> None:
        if self._is_filling:
            return
        chosen = [self._shelves[i] for i in self.selected]
        one = len(chosen) == 1
        own = one and chosen[0].is_own and self._has_generator
        self.open_button.setEnabled(own)
        self.rename_button.setEnabled(one)
        self.remove_button.setEnabled(bool(chosen))
        self.neighbours_button.setEnabled(own)
        self.own_tags_edit.setEnabled(bool(chosen))
        self.own_tags_edit.setText(", ".join(self._shared_tags()))
        self.own_tags_edit.setPlaceholderText("select a point first" if not chosen else "no tag in common")
        if self.selected != self._told:
            self._told = self.selected
            self.selection_changed.emit()

    def _ask_neighbours(self) -> None:
        identity = self.selected[0]
        if self._has_patches:
            self.neighbours_requested.emit(identity)
            return
        chosen = QFileDialog.getExistingDirectory(self, "Folder of a dataset of real patches")
        if chosen:
            self.patches_chosen.emit(identity, chosen)

    def _choose_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Folder of a latent library")
        if chosen:
            self.folder_chosen.emit(chosen)


def _tip(shelf: Shelf) -> str:
    """Return all that is known of a point, as rich text in which names are plain."""
    lines = [f"<b>{escape(shelf.name)}</b> (SYNTHETIC picture)"]
    lines.append(f"Tags: {escape(', '.join(shelf.tags))}" if shelf.tags else "No tags")
    lines += [escape(part) for part in (shelf.source, shelf.added) if part]
    if not shelf.is_own:
        lines.append("It belongs to another generator: choose that one under Models to open it.")
    return f"<qt>{'<br>'.join(lines)}</qt>"
