"""Train networks on a patch dataset: configuration, the loop, checkpoints. Importing this costs no torch."""

from napari_histolatent.training.config import PRESETS, ClassifierConfig, TrainingConfig, preset

__all__ = ["PRESETS", "ClassifierConfig", "TrainingConfig", "preset"]
