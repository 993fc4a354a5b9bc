from __future__ import annotations

import pytest

from napari_histolatent._napari.editing._history import History


@pytest.fixture
def history() -> History[str]:
    made = History("tile", "pick")
    made.do("found", "reverse search")
    made.do("flipped", "flip to tumour")
    return made


def test_a_new_history_has_nothing_to_undo_or_redo() -> None:
    history = History(1)
    assert (history.current, history.can_undo, history.can_redo) == (1, False, False)
    assert history.undo() is None
    assert history.redo() is None
    assert history.current == 1


def test_undo_goes_back_and_redo_forward_and_both_say_what_they_do(history: History[str]) -> None:
    assert (history.undo_label, history.redo_label) == ("flip to tumour", None)
    assert history.undo() == history.current == "found"
    assert (history.undo_label, history.redo_label) == ("reverse search", "flip to tumour")
    assert history.undo() == "tile"
    assert history.undo_label is None
    assert (history.redo(), history.redo(), history.redo()) == ("found", "flipped", None)
    assert history.current == "flipped"


def test_what_was_undone_before_something_else_is_kept_as_a_branch(history: History[str]) -> None:
    history.undo()
    history.do("moved", "along lumen")
    history.do("further", "along nuclei")
    new, old = history.branches()
    assert (new.label, new.steps, new.is_current) == ("along lumen, along nuclei", 4, True)
    assert (old.label, old.steps, old.is_current) == ("flip to tumour", 3, False)
    assert history.go(old.id) == history.current == "flipped"
    assert [branch.is_current for branch in history.branches()] == [False, True]
    assert [step.state for step in history.steps()] == ["tile", "found", "flipped"]


def test_redo_follows_the_branch_that_was_gone_to(history: History[str]) -> None:
    history.undo()
    history.do("moved", "along lumen")
    old = history.branches()[1]
    assert old.label == "flip to tumour"
    history.go(old.id)
    history.undo()
    history.undo()
    assert (history.redo(), history.redo()) == ("found", "flipped")


def test_one_line_of_steps_is_one_branch_that_says_all(history: History[str]) -> None:
    (only,) = history.branches()
    assert (only.label, only.is_current) == ("pick, reverse search, flip to tumour", True)
    history.undo()
    assert history.branches() == [only]  # redo leads there: it is still the present one


def test_amending_makes_no_step(history: History[str]) -> None:
    history.amend("flipped by half")
    assert (len(history), history.current, history.undo_label) == (3, "flipped by half", "flip to tumour")
    history.undo()
    assert history.redo() == "flipped by half"


def test_states_are_not_compared() -> None:
    import numpy as np

    history = History(np.zeros(3))
    history.do(np.zeros(3), "again")
    assert len(history) == 2


def test_the_oldest_left_branches_go_first_and_then_the_earliest_steps() -> None:
    history = History("0", "start", most=4)
    history.do("a", "a")
    history.undo()
    history.do("b", "b")
    history.do("c", "c")
    assert len(history.branches()) == 2
    history.do("d", "d")
    assert [branch.label for branch in history.branches()] == ["start, b, c, d"]
    history.do("e", "e")
    assert [step.state for step in history.steps()] == ["b", "c", "d", "e"]
    assert [history.undo() for _ in range(4)] == ["d", "c", "b", None]
    assert history.undo_label is None


def test_a_step_that_was_forgotten_cannot_be_gone_to() -> None:
    history = History("0", "start", most=1)
    history.do("a", "a")
    assert len(history) == 1
    with pytest.raises(KeyError):
        history.go(0)
    with pytest.raises(ValueError, match="0"):
        History("0", most=0)


def test_however_it_is_gone_about_the_present_state_is_kept() -> None:
    import numpy as np

    chance, history = np.random.default_rng(3), History(0, most=7)
    for i in range(1, 400):
        match int(chance.integers(4)):
            case 0:
                history.undo()
            case 1:
                history.redo()
            case 2:
                branches = history.branches()
                history.go(branches[int(chance.integers(len(branches)))].id)
            case _:
                history.do(i, str(i))
                assert history.current == i
        assert 1 <= len(history) <= 7
        assert sum(branch.is_current for branch in history.branches()) == 1
        assert history.current in [step.state for step in history.steps()]
