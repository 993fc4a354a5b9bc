"""Sentences that were written for the command line, in the dock's words."""

from __future__ import annotations

_WORDS = {
    "give --normalise-stain to bring it there first": "tick “Normalise the stain” to bring it there first",
    "leave --normalise-stain out": "take the tick from “Normalise the stain”",
    "with `histolatent invert`": "with the button Reverse search",
    "give one with --classifier, or": "choose one above, or",
    "; leave --label out": "",
    "or name its own class with --label if the search took the wrong one": (
        "or choose its own class at “Search as” and search again"
    ),
    "name it with --dataset": "choose it in the Train dock",
    "The heatmaps are of another class": "the heatmaps are of different classes",
    "make both with the same classifier, class and layer": "choose one class for both at “Evidence for”",
    "make it with `histolatent calibrate RUN --dataset DS`": "make it with “Calibrate the verdict”, below",
    "make it again with `histolatent calibrate`": "make it again with “Calibrate the verdict”, below",
}


def in_dock(sentence: str) -> str:
    """Return a sentence with its remedy as the dock's user finds it."""
    for said, word in _WORDS.items():
        sentence = sentence.replace(said, word)
    return sentence
