from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari.widgets.associated_images import AssociatedImages, WrappedText

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

LEFT = Qt.MouseButton.LeftButton
NAMES = ["label", "macro", "thumbnail", "camera 2"]


@pytest.fixture
def images(qtbot: Any) -> AssociatedImages:
    widget = AssociatedImages()
    qtbot.addWidget(widget)
    widget.set_names(NAMES)
    widget.show()
    return widget


@pytest.fixture
def wanted(images: AssociatedImages) -> list[str]:
    """The images it asked for."""
    names: list[str] = []
    images.wanted.connect(names.append)
    return names


def shown(images: AssociatedImages) -> list[str]:
    """Return the images of which pixels are on the screen, or would be if the list were open."""
    return [name for name, image in images.images.items() if not image.picture.pixmap().isNull()]


def press(qtbot: Any, images: AssociatedImages, name: str) -> None:
    qtbot.mouseClick(images.images[name].button, LEFT)


def test_closed_it_asks_for_nothing(images: AssociatedImages, wanted: list[str]) -> None:
    assert "4" in images.opener.text()
    assert not images.images["thumbnail"].isVisible()
    assert wanted == []


def test_without_images_it_is_not_there(images: AssociatedImages) -> None:
    images.set_names([])
    assert images.isHidden()


def test_open_it_asks_for_the_thumbnail_only(
    qtbot: Any, images: AssociatedImages, wanted: list[str], noise: Callable[..., np.ndarray]
) -> None:
    qtbot.mouseClick(images.opener, LEFT)
    assert wanted == ["thumbnail"], "the others may show whose slide it is"
    assert images.images["thumbnail"].state.text() == "Reading…"
    images.set_image("thumbnail", noise(300, 1200))
    assert shown(images) == ["thumbnail"]
    assert images.images["thumbnail"].title.text() == "thumbnail, 1,200 × 300 px"
    assert images.images["thumbnail"].state.isHidden()


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("label", "The label may name the patient."),
        ("macro", "The macro may show the label."),
        ("camera 2", "This image may show the label."),
    ],
)
def test_what_may_name_the_patient_is_asked_for_by_its_button(
    qtbot: Any,
    images: AssociatedImages,
    wanted: list[str],
    noise: Callable[..., np.ndarray],
    name: str,
    warning: str,
) -> None:
    qtbot.mouseClick(images.opener, LEFT)
    del wanted[:]
    image = images.images[name]
    assert image.warning.text() == warning
    assert image.warning.isVisible()
    images.set_image(name, noise(20, 30))
    assert shown(images) == [], "nobody asked for it"
    assert image.button.text().startswith("Show")
    press(qtbot, images, name)
    assert wanted == [name]
    assert image.button.text().startswith("Hide")
    images.set_image(name, noise(20, 30))
    assert shown(images) == [name]
    press(qtbot, images, name)
    assert shown(images) == []
    assert image.title.text() == name
    images.set_image(name, noise(20, 30))
    assert shown(images) == [], "it came after it was hidden"
    assert wanted == [name]


@pytest.mark.parametrize("name", ["Label", "slide label image", "LABEL_1"])
def test_a_label_is_known_by_any_of_its_names(
    qtbot: Any, images: AssociatedImages, wanted: list[str], name: str
) -> None:
    images.set_names([name])
    qtbot.mouseClick(images.opener, LEFT)
    assert wanted == []
    assert images.images[name].button.text() == "Show label"


def test_to_close_the_list_forgets_what_was_shown(
    qtbot: Any, images: AssociatedImages, wanted: list[str], noise: Callable[..., np.ndarray]
) -> None:
    qtbot.mouseClick(images.opener, LEFT)
    press(qtbot, images, "label")
    images.set_image("label", noise(20, 30))
    qtbot.mouseClick(images.opener, LEFT)
    assert shown(images) == []
    qtbot.mouseClick(images.opener, LEFT)
    assert wanted == ["thumbnail", "label", "thumbnail"]


def test_another_slide_begins_closed_and_empty(
    qtbot: Any, images: AssociatedImages, wanted: list[str], noise: Callable[..., np.ndarray]
) -> None:
    qtbot.mouseClick(images.opener, LEFT)
    press(qtbot, images, "label")
    images.set_image("label", noise(20, 30))
    del wanted[:]
    images.set_names(NAMES)
    assert wanted == [], "a setter asks for nothing"
    assert not images.opener.isChecked()
    assert shown(images) == []
    images.set_image("label", noise(20, 30))
    assert shown(images) == []


def test_what_cannot_be_read_is_a_sentence(
    qtbot: Any, images: AssociatedImages, noise: Callable[..., np.ndarray]
) -> None:
    qtbot.mouseClick(images.opener, LEFT)
    images.set_failed("thumbnail", "It is damaged.")
    images.set_failed("label", "It is damaged.")
    assert images.images["thumbnail"].state.text() == "It is damaged."
    assert images.images["label"].state.isHidden(), "nobody asked for it"
    images.set_image("no such image", noise(2, 2))
    images.set_failed("no such image", "It is damaged.")


def test_a_long_name_wraps_and_is_copied_whole(qtbot: Any) -> None:
    text = "/archive/" + "a_long_name" * 20 + ".svs"
    wrapped = WrappedText(text)
    qtbot.addWidget(wrapped)
    assert wrapped.text() == text
    assert wrapped.minimumSizeHint().width() < 100
    assert wrapped.heightForWidth(100) > 10 * wrapped.fontMetrics().height()
    wrapped.set_text("<b>no markup</b>")
    assert wrapped.toPlainText() == "<b>no markup</b>"
    assert wrapped.heightForWidth(200) < 2 * wrapped.fontMetrics().height()
