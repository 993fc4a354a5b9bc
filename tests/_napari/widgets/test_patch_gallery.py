from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import QEvent, QPoint, Qt
from qtpy.QtGui import QHelpEvent, QKeySequence
from qtpy.QtWidgets import QApplication, QShortcut, QToolTip

from napari_histolatent._napari.widgets.patch_gallery import PatchGallery, Thumbnails, tooltip_of, value_text
from napari_histolatent._napari.widgets.patch_model import NO_CLASS, Card, CardFilter, CardOrder, CardTable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RED, BLUE = (200, 30, 30), (30, 30, 200)
NONE, SHIFT, CTRL = (
    Qt.KeyboardModifier.NoModifier,
    Qt.KeyboardModifier.ShiftModifier,
    Qt.KeyboardModifier.ControlModifier,
)


def card_of(key: Any, label: str = "tumor", **more: Any) -> Card:
    return Card(key=key, label=label, color=RED if label == "tumor" else BLUE, **more)


def many(n: int, *, seed: int = 0) -> list[Card]:
    """Cards of three classes or none and two slides; one in ten has no focus, or NaN."""
    draw = random.Random(seed)
    cards = []
    for i in range(n):
        values = {"tissue": round(draw.random(), 2), "focus": draw.random() * 900}
        if i % 10 == 3:
            del values["focus"]
        if i % 10 == 7:
            values["focus"] = math.nan
        label = draw.choice(["Stroma", "tumor", "fat", NO_CLASS])
        cards.append(Card(key=("k", i), label=label, slide=draw.choice(["b.svs", "a.svs"]), values=values))
    return cards


@pytest.fixture(scope="module")
def hundred_thousand() -> list[Card]:
    return [Card(key=i, label="tumor") for i in range(100_000)]


@pytest.fixture
def gallery(qtbot: Any) -> PatchGallery:
    widget = PatchGallery()
    qtbot.addWidget(widget)
    widget.resize(420, 600)
    with qtbot.waitExposed(widget):
        widget.show()
    widget.view.setFocus()
    return widget


@pytest.fixture
def five(gallery: PatchGallery) -> PatchGallery:
    """Five cards, a to e: four in the first row, one below."""
    labels = ("tumor", "stroma", "tumor", NO_CLASS, "tumor")
    gallery.set_cards([card_of(key, label) for key, label in zip("abcde", labels, strict=True)])
    assert gallery.view.n_columns() == 4
    return gallery


def middle_of(gallery: PatchGallery, key: Any) -> QPoint:
    """Where a card is, in the viewport."""
    return gallery.view.card_rect(gallery.shown_keys().index(key)).center()


def click(qtbot: Any, gallery: PatchGallery, key: Any, modifiers: Any = NONE) -> None:
    qtbot.mouseClick(
        gallery.view.viewport(), Qt.MouseButton.LeftButton, modifiers, pos=middle_of(gallery, key)
    )


def choose(box: Any, text: str) -> None:
    assert box.findText(text) >= 0, [box.itemText(i) for i in range(box.count())]
    box.setCurrentIndex(box.findText(text))


# -- pixels -------------------------------------------------------------------------------------------------


def test_only_cards_in_view_and_a_page_further_on_want_pixels(
    qtbot: Any, gallery: PatchGallery, hundred_thousand: list[Card]
) -> None:
    with qtbot.waitSignal(gallery.pixels_wanted) as asked:
        gallery.set_cards(hundred_thousand)
    (keys,) = asked.args
    rows_in_view = math.ceil(gallery.view.viewport().height() / gallery.view.cell_height())
    in_view = rows_in_view * gallery.view.n_columns()
    assert keys == list(range(2 * in_view)), "what is in view comes first, then the next page"
    assert in_view < 40


def test_after_scrolling_what_is_in_view_is_wanted(
    qtbot: Any, gallery: PatchGallery, hundred_thousand: list[Card]
) -> None:
    with qtbot.waitSignal(gallery.pixels_wanted):
        gallery.set_cards(hundred_thousand)
    bar, told = gallery.view.verticalScrollBar(), []
    gallery.pixels_wanted.connect(told.append)
    for part in (4, 3, 2):
        bar.setValue(bar.maximum() // part)
    qtbot.waitUntil(lambda: bool(told))
    assert len(told) == 1, "pages that were only passed are not asked for"
    n, height = gallery.view.n_columns(), gallery.view.cell_height()
    first = bar.value() // height * n
    assert abs(told[0][0] - first) <= n
    assert told[0] == list(range(told[0][0], told[0][0] + len(told[0])))
    with qtbot.waitSignal(gallery.pixels_wanted) as asked:
        bar.setValue(bar.value() - 3 * gallery.view.viewport().height())
    keys = asked.args[0]
    assert min(keys) == keys[-1] < keys[0], "upwards, the page above is the next one"


def test_pixels_are_not_asked_for_again(qtbot: Any, gallery: PatchGallery, noise: Any) -> None:
    with qtbot.waitSignal(gallery.pixels_wanted) as asked:
        gallery.set_cards([card_of(i) for i in range(8)])
    assert asked.args[0] == list(range(8))
    for key in (0, 1, 2, 99):  # 99: it has gone meanwhile
        gallery.set_pixels(key, noise(100, 100, seed=0))
    qtbot.waitUntil(lambda: len(gallery.view.thumbnails) == 3)
    assert gallery.view.wanted() == [3, 4, 5, 6, 7]
    with qtbot.waitSignal(gallery.pixels_wanted) as asked:
        choose(gallery.size_box, "Large")
    assert asked.args[0][:3] == [0, 1, 2], "what was shrunk for smaller cards is asked for again"
    with qtbot.waitSignal(gallery.pixels_wanted) as asked:
        gallery.set_cards([card_of(i) for i in range(8)])
    assert len(gallery.view.thumbnails) == 0, "a key may mean other pixels now"


def test_pixels_stay_where_the_owner_says_that_keys_mean_the_same(gallery: PatchGallery, noise: Any) -> None:
    gallery.add(card_of("a"), noise(32, 32, seed=0))
    gallery.set_cards([card_of("a", "stroma")], keeps_pixels=True)
    assert gallery.view.wanted() == []


def test_a_hidden_gallery_wants_nothing_until_it_is_shown(qtbot: Any) -> None:
    widget = PatchGallery()
    qtbot.addWidget(widget)
    with qtbot.assertNotEmitted(widget.pixels_wanted, wait=120):
        widget.set_cards([card_of("a")])
    with qtbot.waitSignal(widget.pixels_wanted) as asked:
        widget.show()
    assert asked.args[0] == ["a"]


def test_the_pictures_used_longest_ago_go_first(qapp: Any) -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    kept = Thumbnails(most=3)
    for key in "abc":
        kept.put(key, picture, 10)
    kept.touch("a")
    kept.put("d", picture, 10)
    assert [kept.get(key) is not None for key in "abcd"] == [True, False, True, True]
    assert kept.n_bytes == 3 * 10 * 10 * 4
    kept = Thumbnails(most=100, most_bytes=1000)
    for key in range(20):
        kept.put(key, picture, 10)
    assert len(kept) == 2
    assert kept.n_bytes == 800
    kept.drop(19)
    kept.put(18, picture, 5)
    assert kept.n_bytes == 100
    kept.clear()
    assert (len(kept), kept.n_bytes) == (0, 0)


def test_pictures_in_view_outlast_others(gallery: PatchGallery) -> None:
    gallery.view.thumbnails.most = 8
    gallery.set_cards([card_of(i) for i in range(8)])
    picture = np.zeros((8, 8, 3), np.uint8)
    for key in range(8):
        gallery.view.put_pixels(key, picture)
    assert gallery.view.wanted() == []
    gallery.view.put_pixels("not in view", picture)
    assert gallery.view.wanted() == [7], "the farthest went, not the one that came first"


def test_scrolling_far_keeps_no_more_pictures_than_allowed(qtbot: Any, gallery: PatchGallery) -> None:
    gallery.view.thumbnails.most = 60
    picture = np.zeros((8, 8, 3), np.uint8)
    gallery.pixels_wanted.connect(lambda keys: [gallery.set_pixels(key, picture) for key in keys])
    gallery.set_cards([card_of(i) for i in range(2000)])
    bar = gallery.view.verticalScrollBar()
    for part in (1, 2, 3, 4):
        bar.setValue(bar.maximum() * part // 4)
        qtbot.waitUntil(lambda: gallery.view.wanted() == [])
        assert len(gallery.view.thumbnails) <= 60


def test_more_cards_in_view_than_may_be_kept_are_not_asked_for_in_turns(gallery: PatchGallery) -> None:
    gallery.view.thumbnails.most = 5
    gallery.set_cards([card_of(i) for i in range(100)])
    assert gallery.view.wanted() == [0, 1, 2, 3, 4]


def test_pixels_are_drawn_on_their_card(qtbot: Any, five: PatchGallery, data_dir: Path) -> None:
    path = next((data_dir / "patches" / "lc25000_lung" / "lung_scc").iterdir())
    with Image.open(path) as picture:
        tile = np.array(picture.convert("RGB"))
    five.set_pixels("b", tile)
    qtbot.waitUntil(lambda: five.view.thumbnails.get("b") is not None)
    drawn = five.view.viewport().grab().toImage()
    rect = five.view.card_rect(1)
    inner = [
        drawn.pixelColor(x, y).getRgb()[:3]
        for y in range(rect.top() + 8, rect.top() + 80, 3)
        for x in range(rect.left() + 8, rect.left() + 80, 3)
    ]
    assert np.mean(inner, axis=0) == pytest.approx(tile.mean(axis=(0, 1)), abs=6)
    bar = drawn.pixelColor(rect.center().x(), rect.top() + 4 + five.view.side_px + 1)
    assert bar.getRgb()[:3] == BLUE, "the class's colour lies below the picture"


def test_a_card_left_out_is_dim_and_crossed(qtbot: Any, five: PatchGallery) -> None:
    white = np.full((80, 80, 3), 255, np.uint8)
    for key in "ab":
        five.set_pixels(key, white)
    five.update_card("b", card_of("b", "stroma", is_left_out=True))
    qtbot.waitUntil(lambda: len(five.view.thumbnails) == 2)
    five.view.setStyleSheet("background: black; color: rgb(10, 250, 10);")
    drawn = five.view.viewport().grab().toImage()
    a, b = five.view.card_rect(0), five.view.card_rect(1)
    off_cross = QPoint(40, 12)
    assert drawn.pixelColor(a.topLeft() + off_cross).lightness() == 255
    assert drawn.pixelColor(b.topLeft() + off_cross).lightness() < 120
    center = QPoint(4 + 40, 4 + 40)
    assert drawn.pixelColor(a.topLeft() + center).lightness() == 255
    cross = drawn.pixelColor(b.topLeft() + center)
    assert cross.green() > 2 * cross.red(), "in the colour of the text"


# -- selection, clicks and keys -----------------------------------------------------------------------------


def test_clicks_select_as_everywhere(qtbot: Any, five: PatchGallery) -> None:
    told: list[list[str]] = []
    five.selection_changed.connect(told.append)
    click(qtbot, five, "b")
    click(qtbot, five, "d", SHIFT)
    click(qtbot, five, "c", CTRL)
    click(qtbot, five, "e", CTRL)
    click(qtbot, five, "a")
    click(qtbot, five, "a")  # no change, no signal
    empty = QPoint(middle_of(five, "d").x(), middle_of(five, "e").y())
    qtbot.mouseClick(five.view.viewport(), Qt.MouseButton.LeftButton, pos=empty)
    assert told == [["b"], ["b", "c", "d"], ["b", "d"], ["b", "d", "e"], ["a"], []]


def test_shift_and_ctrl_add_a_range(qtbot: Any, five: PatchGallery) -> None:
    click(qtbot, five, "a")
    click(qtbot, five, "d", CTRL)
    click(qtbot, five, "e", SHIFT | CTRL)
    assert five.selected_keys() == ["a", "d", "e"]


def test_arrows_move_and_stop_at_the_ends(qtbot: Any, five: PatchGallery) -> None:
    click(qtbot, five, "a")
    seen = []
    for key in ("Right", "Down", "Left", "Up", "Home", "Left", "End", "Right", "Up"):
        qtbot.keyClick(five.view, getattr(Qt.Key, f"Key_{key}"))
        seen.append("".join(five.selected_keys()))
    assert seen == ["b", "e", "d", "d", "a", "a", "e", "e", "a"]


def test_shift_and_arrows_extend_from_where_it_began(qtbot: Any, five: PatchGallery) -> None:
    click(qtbot, five, "c")
    qtbot.keyClick(five.view, Qt.Key.Key_Left, SHIFT)
    assert five.selected_keys() == ["b", "c"]
    qtbot.keyClick(five.view, Qt.Key.Key_End, SHIFT)
    assert five.selected_keys() == ["c", "d", "e"]


def test_pages_are_turned_and_the_current_card_stays_in_view(qtbot: Any, gallery: PatchGallery) -> None:
    gallery.set_cards([card_of(i) for i in range(1001)])
    click(qtbot, gallery, 2)
    page = gallery.view.viewport().height() // gallery.view.cell_height() * 4
    for key, expected in (("PageDown", 2 + page), ("PageDown", 2 + 2 * page), ("PageUp", 2 + page)):
        qtbot.keyClick(gallery.view, getattr(Qt.Key, f"Key_{key}"))
        assert gallery.selected_keys() == [expected]
    qtbot.keyClick(gallery.view, Qt.Key.Key_End)
    assert gallery.selected_keys() == [1000]
    qtbot.keyClick(gallery.view, Qt.Key.Key_PageUp)
    (current,) = gallery.selected_keys()
    assert current == 1000 - page
    rect = gallery.view.card_rect(current)
    assert gallery.view.viewport().rect().contains(rect)


def test_ctrl_a_selects_what_the_filter_shows_and_nothing_else(qtbot: Any, five: PatchGallery) -> None:
    choose(five.class_box, "tumor")
    assert five.shown_keys() == ["a", "c", "e"]
    qtbot.keyClick(five.view, Qt.Key.Key_A, CTRL)
    assert five.selected_keys() == ["a", "c", "e"]
    choose(five.class_box, "stroma")
    assert five.selected_keys() == [], "no key acts on a card that is not seen"
    five.clear_filter()
    assert five.selected_keys() == []


@pytest.mark.parametrize("digit", [0, 1, 9])
def test_a_digit_puts_the_selected_into_a_class(qtbot: Any, five: PatchGallery, digit: int) -> None:
    click(qtbot, five, "a")
    click(qtbot, five, "c", CTRL)
    with qtbot.waitSignal(five.class_chosen) as asked:
        qtbot.keyClick(five.view, getattr(Qt.Key, f"Key_{digit}"))
    assert asked.args == [["a", "c"], digit]
    assert five.card("a") == card_of("a"), "it only asks"


@pytest.mark.parametrize(
    ("key", "signal"), [("Delete", "removed"), ("Backspace", "removed"), ("Space", "toggled")]
)
def test_keys_act_on_what_is_selected(qtbot: Any, five: PatchGallery, key: str, signal: str) -> None:
    with qtbot.assertNotEmitted(getattr(five, signal)):
        qtbot.keyClick(five.view, getattr(Qt.Key, f"Key_{key}"))
    click(qtbot, five, "b")
    click(qtbot, five, "d", SHIFT)
    with qtbot.waitSignal(getattr(five, signal)) as asked:
        qtbot.keyClick(five.view, getattr(Qt.Key, f"Key_{key}"))
    assert asked.args == [["b", "c", "d"]]
    assert len(five.shown_keys()) == 5, "it only asks"


def test_a_digit_with_ctrl_or_a_letter_is_left_to_the_window(qtbot: Any, five: PatchGallery) -> None:
    click(qtbot, five, "a")
    with qtbot.assertNotEmitted(five.class_chosen):
        qtbot.keyClick(five.view, Qt.Key.Key_1, CTRL)
        qtbot.keyClick(five.view, Qt.Key.Key_Q)


def test_double_click_and_enter_open(qtbot: Any, five: PatchGallery) -> None:
    with qtbot.waitSignal(five.opened) as asked:
        click(qtbot, five, "d")
        qtbot.mouseDClick(five.view.viewport(), Qt.MouseButton.LeftButton, pos=middle_of(five, "d"))
    assert asked.args == ["d"]
    qtbot.keyClick(five.view, Qt.Key.Key_Right)
    with qtbot.waitSignal(five.opened) as asked:
        qtbot.keyClick(five.view, Qt.Key.Key_Return)
    assert asked.args == ["e"]


def test_keys_in_an_empty_gallery_do_nothing(qtbot: Any, gallery: PatchGallery) -> None:
    for key in ("Delete", "Space", "1", "Return", "Down", "End", "PageUp", "A"):
        qtbot.keyClick(gallery.view, getattr(Qt.Key, f"Key_{key}"), CTRL if key == "A" else NONE)
    assert gallery.selected_keys() == []


def test_a_window_s_shortcut_does_not_take_the_gallery_s_keys(qtbot: Any, five: PatchGallery) -> None:
    taken: list[str] = []
    shortcuts = [QShortcut(QKeySequence(keys), five) for keys in ("1", "Delete", "Ctrl+A")]
    for shortcut in shortcuts:
        shortcut.activated.connect(lambda: taken.append("shortcut"))
    five.activateWindow()
    qtbot.waitUntil(five.view.hasFocus)
    click(qtbot, five, "b")
    with qtbot.waitSignal(five.class_chosen):
        qtbot.keyClick(five.view, Qt.Key.Key_1)
    with qtbot.waitSignal(five.removed):
        qtbot.keyClick(five.view, Qt.Key.Key_Delete)
    qtbot.keyClick(five.view, Qt.Key.Key_A, CTRL)
    assert len(five.selected_keys()) == 5
    assert taken == []


# -- adding, changing, removing -----------------------------------------------------------------------------


def test_a_card_added_is_selected_and_in_view(qtbot: Any, gallery: PatchGallery, noise: Any) -> None:
    gallery.set_cards([card_of(i) for i in range(400)])
    for i in range(400, 410):
        gallery.add(card_of(i), noise(24, 24, seed=i))
    assert gallery.shown_keys() == list(range(410))
    assert gallery.selected_keys() == [409]
    assert gallery.view.viewport().rect().contains(gallery.view.card_rect(409))
    assert gallery.count_label.text() == "410 of 410"
    assert gallery.view.thumbnails.get(409) is not None


def test_a_card_added_that_the_filter_hides_stays_hidden(five: PatchGallery) -> None:
    choose(five.class_box, "stroma")
    five.add(card_of("f", "tumor"))
    assert five.shown_keys() == ["b"]
    assert five.count_label.text() == "1 of 6"
    five.clear_filter()
    assert five.shown_keys() == list("abcdef")


def test_a_key_added_twice_is_a_change(five: PatchGallery) -> None:
    five.add(card_of("b", "tumor"))
    assert five.shown_keys() == list("abcde")
    assert five.card("b") == card_of("b", "tumor")


def test_after_a_removal_the_next_card_is_selected(qtbot: Any, five: PatchGallery, noise: Any) -> None:
    five.removed.connect(lambda keys: five.remove(*keys))
    five.set_pixels("c", noise(24, 24, seed=0))
    qtbot.waitUntil(lambda: len(five.view.thumbnails) == 1)
    click(qtbot, five, "b")
    click(qtbot, five, "c", CTRL)
    qtbot.keyClick(five.view, Qt.Key.Key_Delete)
    assert five.shown_keys() == ["a", "d", "e"]
    assert five.selected_keys() == ["d"]
    assert len(five.view.thumbnails) == 0
    qtbot.keyClick(five.view, Qt.Key.Key_End)
    qtbot.keyClick(five.view, Qt.Key.Key_Delete)
    assert five.selected_keys() == ["d"], "behind the last one is none"
    five.remove("a", "d", "gone")
    assert five.shown_keys() == []
    assert five.card("a") is None


def test_cards_can_be_classed_one_after_the_other(qtbot: Any, gallery: PatchGallery) -> None:
    gallery.set_cards([card_of(key, NO_CLASS) for key in "abc"])
    gallery.class_chosen.connect(
        lambda keys, digit: [gallery.update_card(key, card_of(key, f"class {digit}")) for key in keys]
    )
    choose(gallery.class_box, "No class")
    assert gallery.shown_keys() == ["a", "b", "c"]
    click(qtbot, gallery, "a")
    for digit in (2, 1, 2):
        qtbot.keyClick(gallery.view, getattr(Qt.Key, f"Key_{digit}"))
        gallery.shown_keys()
    assert [gallery.card(key).label for key in "abc"] == ["class 2", "class 1", "class 2"]
    assert gallery.shown_keys() == []
    offered = [gallery.class_box.itemText(i) for i in range(gallery.class_box.count())]
    assert offered == ["All classes", "class 1", "class 2", "No class"]


def test_a_change_is_filtered_and_sorted_by(five: PatchGallery) -> None:
    choose(five.order_box, "class")
    assert five.shown_keys() == ["b", "a", "c", "e", "d"], "without a class comes last"
    five.update_card("d", card_of("d", "adipose"))
    assert five.shown_keys() == ["d", "b", "a", "c", "e"]
    five.update_card("gone", card_of("gone"))  # its owner was late
    assert five.card("gone") is None
    with pytest.raises(ValueError, match="'a' has the key 'b'"):
        five.update_card("a", card_of("b"))


def test_removed_and_added_again_it_is_the_last(five: PatchGallery) -> None:
    five.remove("a")
    five.add(card_of("a"))
    assert five.shown_keys() == list("bcdea")


# -- filter and sort ----------------------------------------------------------------------------------------


def plain_rows(cards: Sequence[Card], wanted: CardFilter, order: CardOrder) -> list[Any]:
    """The same, card by card."""
    found = []
    for card in cards:
        value = np.float32(card.values.get(wanted.value, math.nan)) if wanted.value else 0
        bound = np.float32(wanted.bound)
        if (
            (wanted.label is None or card.label == wanted.label)
            and (wanted.slide is None or card.slide == wanted.slide)
            and (not wanted.value or (value >= bound if wanted.is_least else value <= bound))
        ):
            found.append(card)
    if order.by == "added":
        return [card.key for card in (reversed(found) if order.is_descending else found)]

    def key(card: Card) -> Any:
        if order.by == "class":
            return (card.label == NO_CLASS, card.label.casefold())
        return card.slide if order.by == "slide" else float(np.float32(card.values[order.value]))

    def has(card: Card) -> bool:
        return order.by != "value" or not math.isnan(card.values.get(order.value, math.nan))

    with_key = sorted((card for card in found if has(card)), key=key, reverse=order.is_descending)
    return [card.key for card in (*with_key, *(card for card in found if not has(card)))]


ORDERS = [CardOrder("added"), CardOrder("class"), CardOrder("slide"), CardOrder("value", "focus")]
FILTERS = [
    CardFilter(),
    CardFilter(label="tumor"),
    CardFilter(label=NO_CLASS, slide="a.svs"),
    CardFilter(value="tissue", bound=0.7),
    CardFilter(label="fat", value="focus", bound=300.0, is_least=False),
    CardFilter(label="not there"),
]


@pytest.mark.parametrize("order", [*ORDERS, *(replace(order, is_descending=True) for order in ORDERS)])
def test_rows_are_what_plain_python_finds(order: CardOrder) -> None:
    cards = many(700)
    table = CardTable(cards)
    for wanted in FILTERS:
        expected = plain_rows(cards, wanted, order)
        assert table.keys(table.rows(wanted, order)) == expected, wanted
    assert plain_rows(cards, FILTERS[3], order), "the comparison is of something"


def test_columns_follow_changes() -> None:
    cards = many(300)
    table = CardTable(cards)
    table.prepare()
    kept = {card.key: card for card in cards}
    for i, fresh in enumerate(many(600, seed=1)):
        if i % 3 == 0:
            table.remove(fresh.key)
            kept.pop(fresh.key, None)
        elif fresh.key in kept:
            table.update(fresh)
            kept[fresh.key] = fresh
        else:
            table.add(fresh)
            kept[fresh.key] = fresh
    assert table.n_cards == len(kept)
    for order in ORDERS:
        for wanted in FILTERS:
            assert table.keys(table.rows(wanted, order)) == plain_rows(list(kept.values()), wanted, order)


def columns_of(cards: Sequence[Card]) -> CardTable:
    """The same cards, made when they are looked at."""
    names = sorted({card.label for card in cards})
    values = sorted({name for card in cards for name in card.values})
    slots = {card.key: slot for slot, card in enumerate(cards)}
    return CardTable.from_columns(
        len(cards),
        card_of=cards.__getitem__,
        key_of=lambda slot: cards[slot].key,
        slot_of=lambda key: slots.get(key, -1),
        labels=(np.array([names.index(card.label) for card in cards]), names),
        slide="a.svs",
        values={v: np.array([card.values.get(v, math.nan) for card in cards]) for v in values},
    )


def test_a_table_of_columns_is_that_of_its_cards() -> None:
    cards = [replace(card, slide="a.svs") for card in many(300)]
    table = columns_of(cards)
    assert not table.prepare_some(10), "all of it is there"
    assert table.labels() == CardTable(cards).labels()
    assert table.slides() == ("a.svs",)
    kept = {card.key: card for card in cards}
    for i, fresh in enumerate(replace(card, slide="b.svs") for card in many(600, seed=1)):
        if i % 3 == 0:
            assert (table.remove(fresh.key) >= 0) == (kept.pop(fresh.key, None) is not None)
        else:
            table.add(fresh)
            kept[fresh.key] = fresh
    assert table.n_cards == len(kept)
    assert table.slot("none such") == -1
    removed = next(card for card in many(300) if card.key not in kept)
    assert table.slot(removed.key) == -1
    again = table.add(removed)
    assert table.slot(removed.key) == again == table.n_slots - 1
    kept[removed.key] = removed
    assert all(table.cards[table.slot(key)] == card for key, card in kept.items())
    for order in ORDERS:
        for wanted in FILTERS:
            assert table.keys(table.rows(wanted, order)) == plain_rows(list(kept.values()), wanted, order)


def test_two_cards_with_one_key_are_an_error() -> None:
    table = CardTable([card_of("a"), card_of("b"), card_of("a")])
    with pytest.raises(ValueError, match="two patches have the key 'a'"):
        table.prepare()


def test_the_bar_filters_and_sorts(gallery: PatchGallery) -> None:
    cards = many(400)
    gallery.set_cards(cards)
    choose(gallery.class_box, "tumor")
    choose(gallery.slide_box, "a.svs")
    choose(gallery.value_box, "tissue")
    assert gallery.shown_keys() == plain_rows(cards, CardFilter(label="tumor", slide="a.svs"), CardOrder()), (
        "a value that is chosen hides nothing yet"
    )
    gallery.bound_box.setValue(0.4)
    choose(gallery.order_box, "focus")
    gallery.descending_button.click()
    wanted = CardFilter(label="tumor", slide="a.svs", value="tissue", bound=0.4)
    expected = plain_rows(cards, wanted, CardOrder("value", "focus", is_descending=True))
    assert gallery.shown_keys() == expected
    assert 0 < len(expected) < 100
    assert gallery.count_label.text() == f"{len(expected)} of 400"
    choose(gallery.side_box, "at most")
    wanted = replace(wanted, is_least=False)
    assert gallery.shown_keys() == plain_rows(cards, wanted, CardOrder("value", "focus", is_descending=True))
    gallery.all_button.click()
    assert len(gallery.shown_keys()) == 400
    assert not gallery.all_button.isVisible()


def test_only_controls_that_mean_something_are_seen(gallery: PatchGallery) -> None:
    gallery.set_cards([card_of("a", slide="one.svs")])
    assert not gallery.slide_box.isVisible()
    assert not gallery.value_box.isVisible()
    assert gallery.order_box.findText("slide") < 0
    gallery.add(card_of("b", slide="two.svs", values={"tissue": 0.5}))
    gallery.shown_keys()
    assert gallery.slide_box.isVisible()
    assert gallery.value_box.isVisible()
    assert not gallery.bound_box.isVisible()
    choose(gallery.value_box, "tissue")
    gallery.shown_keys()
    assert gallery.bound_box.isVisible()


def test_a_class_called_any_or_like_an_order_is_a_name_like_others(gallery: PatchGallery) -> None:
    gallery.set_cards([card_of(1, "any"), card_of(2, "All classes", values={"class": 1.0})])
    choose(gallery.class_box, "any")
    assert gallery.shown_keys() == [1]
    gallery.class_box.setCurrentIndex(gallery.class_box.count() - 1)
    assert gallery.shown_keys() == []
    gallery.clear_filter()
    gallery.order_box.setCurrentIndex(gallery.order_box.count() - 1)
    assert gallery.chosen_order() == CardOrder("value", "class")


def test_a_filter_stays_when_its_last_card_goes(five: PatchGallery) -> None:
    choose(five.class_box, "stroma")
    assert five.shown_keys() == ["b"]
    five.remove("b")
    assert five.shown_keys() == []
    assert five.class_box.currentText() == "stroma"


def test_classes_of_very_many_cards_are_offered_a_moment_later(
    qtbot: Any, gallery: PatchGallery, hundred_thousand: list[Card]
) -> None:
    gallery.set_cards([*hundred_thousand, card_of("x", "stroma", slide="other.svs")])
    qtbot.waitUntil(lambda: gallery.class_box.findText("stroma") > 0)
    choose(gallery.class_box, "stroma")
    assert gallery.shown_keys() == ["x"]
    assert gallery.slide_box.isVisible()
    gallery.set_cards(hundred_thousand)
    gallery.add(card_of("y", "stroma"))
    assert gallery.shown_keys() == ["y"], "a card added before the classes are known counts once"
    assert gallery.count_label.text() == "1 of 100,001"


def test_values_of_late_cards_can_be_filtered_by(qtbot: Any, gallery: PatchGallery) -> None:
    gallery.set_cards([*(card_of(i) for i in range(1500)), card_of("x", values={"pen": 0.25})])
    qtbot.waitUntil(lambda: gallery.value_box.findText("pen") > 0)
    choose(gallery.value_box, "pen")
    assert gallery.shown_keys() == ["x"]
    gallery.add(card_of("y", values={"pen": 0.75}))
    gallery.shown_keys()
    gallery.bound_box.setValue(0.5)
    assert gallery.shown_keys() == ["y"], "the bound reaches the values that came since"


# -- layout and texts ---------------------------------------------------------------------------------------


def test_narrower_the_first_card_in_view_stays_there(qtbot: Any, gallery: PatchGallery) -> None:
    gallery.set_cards([card_of(i) for i in range(4000)])
    columns = gallery.view.n_columns()
    gallery.view.verticalScrollBar().setValue(100 * gallery.view.cell_height())
    gallery.resize(300, 600)
    QApplication.processEvents()
    assert gallery.view.n_columns() == columns - 1
    first = gallery.view.place_at(QPoint(gallery.view.card_rect(0).center().x(), 20))
    assert first <= 100 * columns < first + gallery.view.n_columns()
    for name, n in (("Small", 4), ("Medium", 3), ("Large", 2)):
        choose(gallery.size_box, name)
        assert gallery.view.n_columns() == n
        rects = [gallery.view.card_rect(i) for i in range(n)]
        assert all(a.right() < b.left() for a, b in pairwise(rects))
        assert rects[-1].right() < gallery.view.viewport().width()


def test_a_tooltip_tells_all_and_takes_names_as_text(qtbot: Any, gallery: PatchGallery) -> None:
    shown = Card(
        key=1,
        label="<b>tumor",
        slide="case<1>.svs",
        values={"coverage <i>": 0.4249, "focus": 1234.4, "pen": math.nan},
        note="by hand",
        is_left_out=True,
        xy=(12345, 678),
    )
    gallery.set_cards([shown])
    at = gallery.view.card_rect(0).center()
    viewport = gallery.view.viewport()
    QApplication.sendEvent(viewport, QHelpEvent(QEvent.Type.ToolTip, at, viewport.mapToGlobal(at)))
    text = QToolTip.text()
    assert text == tooltip_of(shown)
    for part in ("&lt;b&gt;tumor", "case&lt;1&gt;.svs", "x 12,345, y 678", "by hand", "left out", "1,234"):
        assert part in text
    assert "coverage &lt;i&gt;&nbsp;&nbsp;</td><td align=right>0.425<" in text
    assert "pen&nbsp;&nbsp;</td><td align=right>–<" in text
    outside = QPoint(at.x(), viewport.height() - 2)
    QApplication.sendEvent(viewport, QHelpEvent(QEvent.Type.ToolTip, outside, QPoint(0, 0)))
    qtbot.waitUntil(lambda: not QToolTip.isVisible())


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.12345, "0.123"), (999.6, "1,000"), (1e4, "10,000")]
)
def test_values_are_short(value: float, text: str) -> None:
    assert value_text(value) == text


def test_an_empty_gallery_says_how_cards_come(gallery: PatchGallery) -> None:
    bare = gallery.view.viewport().grab().toImage()
    gallery.set_empty_note("Click on the slide to cut a patch.")
    noted = gallery.view.viewport().grab().toImage()
    assert noted != bare
    gallery.set_cards([card_of("a")])
    choose(gallery.class_box, "No class")
    assert gallery.shown_keys() == []
    filtered = gallery.view.viewport().grab().toImage()
    assert filtered not in (bare, noted), "a filter that hides all is told"
