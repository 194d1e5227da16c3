"""The plugin for napari: layers from and to our files, and the workbench in its window."""
