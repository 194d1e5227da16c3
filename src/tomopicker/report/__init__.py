"""Pictures of what was picked, how training went and how far to trust it; paper figures 2 to 4."""

from tomopicker.report.curves import precision_recall_figure, training_figure
from tomopicker.report.fits import fit_figure
from tomopicker.report.save import check_writable, save_figure
from tomopicker.report.slices import TRUTH_COLOUR, PickList, SliceAxis, densest_slice, slice_figure

__all__ = [
    "TRUTH_COLOUR",
    "PickList",
    "SliceAxis",
    "check_writable",
    "densest_slice",
    "fit_figure",
    "precision_recall_figure",
    "save_figure",
    "slice_figure",
    "training_figure",
]
