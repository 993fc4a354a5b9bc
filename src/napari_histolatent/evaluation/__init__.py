"""Reports of what a model does."""

from napari_histolatent.evaluation.report import Figure, Section, write_report

__all__ = ["Figure", "Section", "write_report"]
