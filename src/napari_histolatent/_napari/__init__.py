"""The plugin: the only package that imports napari, qtpy, magicgui and superqt."""
