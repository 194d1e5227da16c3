"""TomoPicker: find every copy of a particle in cryo-electron tomograms from about 100 clicks."""

__version__ = "0.1.0"
