"""The napari plugin: tomograms and picks as layers, and the workbench's engine beside them."""
