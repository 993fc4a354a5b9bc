"""What the Edit dock shows and computes beside its widgets: the scene on the canvas, the frames of a path, the history."""
