"""The widget: click, propose, train, pick and review, with the engine and files of the workbench.

Everything is kept in a session's folder as `tomopicker serve` keeps it, at every click; the two can
go on with each other's sessions, one at a time.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers.base import ActionType
from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from tomopicker.errors import InputError
from tomopicker.napari.edits import edits
from tomopicker.napari.layers import METADATA, image_layer, points_layer
from tomopicker.serve.exports import ExportWish
from tomopicker.serve.notes import Judge, Shown
from tomopicker.serve.rounds import PickWish, TrainWish
from tomopicker.serve.session import Session
from tomopicker.serve.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import napari

    from tomopicker.types import Floats
    from tomopicker.verdicts import Answer

_EVERY = 500
"""Milliseconds between two looks at what is at work."""

_SLICES = 5
"""Whose mean is shown at first."""

_DONE = (ActionType.ADDED, ActionType.REMOVED, ActionType.CHANGED)
"""What napari tells of a layer's points when it has happened, not when it is about to."""

_ORDERS = {"what helps the list most": "teach", "a fair sample": "random", "best first": "best"}


class PickerWidget(QWidget):
    """The panel; `viewer` is given by napari.

    Attributes
    ----------
    workbench
        The session that is open, or None.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.workbench: Workbench | None = None
        self._layer: Any = None
        """Of the particles of the tomogram that is shown."""
        self._queue: list[tuple[int, dict[str, Any]]] = []
        """What waits for a verdict: the tomogram's number, and the candidate as it is shown."""
        self._was: tuple[Any, ...] = ()
        self._build()
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._look)
        self._timer.start(_EVERY)

    def open_session(self, folder: Path, tomograms: Sequence[Path] = ()) -> None:
        """Work in a folder, new or old, on its tomograms and further ones.

        Raises
        ------
        InputError
            As `Session.open`.
        """
        self.close_session()
        self.workbench = Workbench(Session.open(folder, tomograms))
        settings = self.workbench.session.settings
        self.folder.setText(str(folder))
        with _quiet(self.tomogram), _quiet(self.diameter):
            self.tomogram.clear()
            self.tomogram.addItems([one.name for one in settings.tomograms])
            self.diameter.setValue(settings.diameter or 0.0)
        for box in self._boxes:
            box.setEnabled(True)
        self._show_tomogram()

    def close_session(self) -> None:
        """Let go of the folder; what is at work is stopped, and keeps what is complete."""
        if self.workbench is not None:
            self.workbench.close()
        self.workbench = None
        self._queue = []

    def closeEvent(self, event: Any) -> None:  # noqa: N802  # Qt's name
        """Let go of the folder with the panel."""
        self.close_session()
        super().closeEvent(event)

    # What a person does. Each is one call of the workbench.

    def propose(self) -> None:
        """Look for what is like the clicked particles."""
        self._set_diameter()
        self._bench.propose(self._number)
        self._say("Looking for what is like the clicked particles …")

    def train(self) -> None:
        """Train on the particles and verdicts; go on with a training that was stopped."""
        self._set_diameter()
        rounds = self._bench.rounds.all()
        stopped = rounds[-1].number if rounds and not rounds[-1].is_whole else None
        self._bench.start(TrainWish(resume=stopped))

    def pick(self) -> None:
        """Pick all tomograms of the session with the last model."""
        number = self._last_round()
        if number is None:
            raise InputError("there is no model yet; train first")
        everything = tuple(range(self.tomogram.count()))
        self._bench.start(PickWish(round=number, tomograms=everything))

    def review(self) -> None:
        """Show the next candidate of the queue: of the last model's picks, or of the proposals."""
        order: Any = _ORDERS[self.order.currentText()]
        number = self._last_round(picked=True)
        found = self._bench.review(self._number, order, number, only_here=False)
        self._queue = list(zip(found["tomograms"], found["queue"], strict=True))
        said = found["counts"]
        self.left.setText(
            f"{found['left']} wait; {said['accept']} accepted, {said['reject']} rejected"
        )
        if not self._queue:
            self._show_points("candidate", np.empty((0, 3)), "yellow")
            self._say("Nothing waits for a verdict. Propose, or pick, first.")
            return
        tomogram, shown = self._queue[0]
        if tomogram != self._number:
            self.tomogram.setCurrentIndex(tomogram)
        self._show_points("candidate", np.array([shown["at"]]), "yellow")
        self._go_to(np.array(shown["at"]))

    def judge(self, answer: Answer) -> None:
        """Say of the candidate that is shown what it is, and go on to the next one."""
        if not self._queue:
            self.review()
            return
        tomogram, shown = self._queue[0]
        name = self._bench.session.settings.tomograms[tomogram].name
        order: Any = _ORDERS[self.order.currentText()]
        self._bench.act(
            Judge(tomogram=name, answer=answer, order=order, shown=(Shown.model_validate(shown),))
        )
        self._show_particles()
        self.review()

    def undo(self) -> None:
        """Take the last click or verdict back."""
        self._bench.act("undo")
        self._show_particles()

    def export(self) -> None:
        """Write the final lists of all tomograms."""
        written = self._bench.export(
            ExportWish(
                format=self.format.currentText(),
                tomograms=tuple(range(self.tomogram.count())),
                round=self._last_round(picked=True),
                pixel_size=self.pixel_size.value() or None,
            )
        )
        total = sum(one["count"] for one in written["files"])
        self._say(f"{total} particles written to {written['folder']}")

    # What the panel looks like, and how it is kept up to date.

    def _build(self) -> None:
        self.folder = QLabel("none")
        self.folder.setWordWrap(True)
        self.tomogram, self.order, self.format = QComboBox(), QComboBox(), QComboBox()
        self.diameter, self.pixel_size = _angstroms(10_000), _angstroms(1_000)
        self.slices = QSpinBox()
        self.slices.setRange(1, 50)
        self.slices.setValue(_SLICES)
        self.slices.valueChanged.connect(lambda _: self._try(self._thicken))
        self.left, self.message, self.progress = QLabel(), QLabel(), QProgressBar()
        self.message.setWordWrap(True)
        self.order.addItems(list(_ORDERS))
        self.order.currentTextChanged.connect(lambda _: self._try(self.review))
        self.tomogram.currentIndexChanged.connect(lambda _: self._try(self._show_tomogram))
        self.diameter.editingFinished.connect(lambda: self._try(self._set_diameter))

        start = QGroupBox("Session")
        form = QFormLayout(start)
        form.addRow(self._button("Open a folder to work in …", self._ask_for_folder))
        form.addRow("Folder", self.folder)
        form.addRow("Tomogram", self.tomogram)
        form.addRow("Diameter of the particle", self.diameter)
        form.addRow("Slices shown as their mean", self.slices)

        find = QGroupBox("Find")
        find_row = QVBoxLayout(find)
        find_row.addWidget(
            QLabel(
                "Click particles in the layer “particles”: 5 for proposals,\n20 or more to train."
            )
        )
        find_row.addLayout(
            _row(
                self._button("Propose", self.propose),
                self._button("Train", self.train),
                self._button("Pick", self.pick),
                self._button("Cancel", lambda: self._bench.cancel()),
            )
        )
        find_row.addWidget(self.progress)

        look = QGroupBox("Review")
        look_rows = QVBoxLayout(look)
        look_rows.addLayout(_row(self.order, self._button("Next", self.review)))
        look_rows.addLayout(
            _row(
                self._button("Accept", lambda: self.judge("accept"), key="Alt+A"),
                self._button("Reject", lambda: self.judge("reject"), key="Alt+R"),
                self._button("Skip", lambda: self.judge("skip"), key="Alt+S"),
                self._button("Undo", self.undo, key="Alt+U"),
            )
        )
        look_rows.addWidget(self.left)

        save = QGroupBox("Export")
        save_rows = QFormLayout(save)
        save_rows.addRow("Format", self.format)
        save_rows.addRow("Pixel size of the tilt series", self.pixel_size)
        save_rows.addRow(self._button("Export", self.export))

        rows = QVBoxLayout(self)
        for box in (start, find, look, save):
            rows.addWidget(box)
        rows.addWidget(self.message)
        rows.addStretch()
        self._boxes = (find, look, save)
        for box in self._boxes:
            box.setEnabled(False)

    def _button(self, text: str, action: Callable[[], object], *, key: str = "") -> QPushButton:
        button = QPushButton(text)
        button.clicked.connect(lambda: self._try(action))
        if key:
            button.setShortcut(key)
            button.setToolTip(key)
        return button

    def _try(self, action: Callable[[], object]) -> None:
        """Do something, and tell what is wrong instead of failing."""
        try:
            action()
        except InputError as error:
            self._say(str(error))
            show_warning(str(error))

    def _say(self, text: str) -> None:
        self.message.setText(text)

    @property
    def _bench(self) -> Workbench:
        if self.workbench is None:
            raise InputError("open a folder to work in first")
        return self.workbench

    @property
    def _number(self) -> int:
        return max(int(self.tomogram.currentIndex()), 0)

    def _last_round(self, *, picked: bool = False) -> int | None:
        """The last round that has a model, or picks; None where there is none."""
        rounds = self._bench.rounds.all()
        ready = [one.number for one in rounds if (one.picked() if picked else one.is_ready)]
        return ready[-1] if ready else None

    def _ask_for_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Folder to work in, new or of a session")
        if chosen:
            paths = [
                Path(layer.metadata[METADATA]["path"])
                for layer in self.viewer.layers
                if layer.metadata.get(METADATA, {}).get("path")
            ]
            self.open_session(Path(chosen), list(dict.fromkeys(paths)))

    def _set_diameter(self) -> None:
        value = self.diameter.value()
        if value and value != self._bench.session.settings.diameter:
            self._bench.set_diameter(value)
            self._show_particles()
            self._suggest_slices()

    def _show_tomogram(self) -> None:
        """Show the tomogram that is chosen, alone, with its particles."""
        tomogram = self._bench.session.tomogram(self._number)
        path = str(tomogram.path or "")
        shown = None
        for layer in self.viewer.layers:
            about = layer.metadata.get(METADATA, {})
            if "shape" in about and type(layer).__name__ == "Image":
                layer.visible = bool(path) and about.get("path") == path
                shown = layer if layer.visible else shown
        if shown is None:
            data, options, _ = image_layer(tomogram)
            shown = self.viewer.add_image(data, **options)
        for name in ("picks", "proposals", "candidate"):
            if name in self.viewer.layers:
                self.viewer.layers.remove(name)
        self._show_particles()
        self._show_found()
        self._suggest_slices()
        self._thicken()

    def _suggest_slices(self) -> None:
        """Half of the particle's diameter: its density adds up, and circles of the same reach show.

        napari shows points that are within the slices whose mean it shows, and no others.
        """
        session = self._bench.session
        if session.settings.diameter is not None:
            voxel_size = session.tomogram(self._number).voxel_size
            self.slices.setValue(round(session.settings.diameter / 2 / voxel_size))

    def _thicken(self) -> None:
        """Show the mean of as many slices as are asked for."""
        voxel_size = self._bench.session.tomogram(self._number).voxel_size
        self.viewer.dims.thickness = (self.slices.value() * voxel_size,) * self.viewer.dims.ndim

    def _show_particles(self) -> None:
        """Fill the layer of particles from the session."""
        session = self._bench.session
        voxels = session.voxels(session.tomogram(self._number).name)
        layer = self._show_points("particles", voxels, "cyan")
        if layer is not self._layer:
            layer.events.data.connect(self._edited)
            self._layer = layer

    def _edited(self, event: Any) -> None:
        """Keep what was done to the particles' layer, or put the layer back where it cannot be."""
        if self.workbench is None or event.action not in _DONE:
            return
        session = self.workbench.session
        name = session.settings.tomograms[self._number].name
        voxels = np.asarray(self._layer.data, dtype=np.float64).reshape(-1, 3)

        def keep() -> None:
            for one in edits(session.notes.of(name), voxels, tomogram=name):
                self._bench.act(one)

        self._try(keep)
        if len(session.notes.of(name)) != len(voxels):
            self._show_particles()

    def _show_found(self) -> None:
        """Show what the last model picked in this tomogram, and what is proposed."""
        number = self._last_round(picked=True)
        name = self._bench.session.settings.tomograms[self._number].name
        candidates = [] if number is None else self._bench.rounds.candidates(number, name)
        picked = [one.voxel for one in candidates if one.picked]
        proposed = self._bench.tomogram(self._number)["proposals"]
        best = [one["at"] for one in proposed["at"][: proposed["suggested"]]]
        self._show_points("picks", np.array(picked).reshape(-1, 3), "orange")
        self._show_points("proposals", np.array(best).reshape(-1, 3), "lime")

    def _show_points(self, name: str, voxels: Floats, colour: str) -> Any:
        tomogram = self._bench.session.tomogram(self._number)
        diameter = self._bench.session.settings.diameter
        radius = None if diameter is None else diameter / 2
        data, options, _ = points_layer(
            voxels, name=name, voxel_size=tomogram.voxel_size, radius=radius
        )
        about = {METADATA: {"shape": tomogram.shape, "extent": tomogram.extent}}
        if name not in self.viewer.layers:
            options |= {"border_color": colour, "metadata": about}
            return self.viewer.add_points(data, **options)
        layer = self.viewer.layers[name]
        with layer.events.data.blocker():
            layer.data = data
        layer.scale, layer.size, layer.metadata = options["scale"], options["size"], about
        layer.current_size = options["size"]
        layer.refresh()
        return layer

    def _go_to(self, voxel: Floats) -> None:
        """Bring a place, in voxels ``z y x``, to the middle of the view."""
        world = voxel * self._bench.session.tomogram(self._number).voxel_size
        self.viewer.dims.set_point(range(3), world)
        self.viewer.camera.center = tuple(world)

    def _look(self) -> None:
        """Tell how far what is at work is, and show what has come of it."""
        if self.workbench is None:
            return
        about = self.workbench.describe()
        if not self.format.count():
            self.format.addItems(list(about["formats"]))
        job = about["job"]
        proposed = self.workbench.tomogram(self._number)["proposals"]
        state = (None if job is None else (job["round"], job["kind"], job["state"]), proposed["at"])
        if job is not None:
            share = job["share"]
            is_at_work = job["state"] == "running"
            # Qt shows a bar that moves where the two ends are equal.
            self.progress.setRange(0, 0 if is_at_work and share is None else 100)
            self.progress.setValue(100 if not is_at_work else round(100 * (share or 0)))
            if is_at_work or state != self._was:
                self._say(job["message"])
        if proposed["state"] == "failed":
            self._say(proposed["why"])
        if state != self._was:
            if proposed["at"] and self._was and state[1] != self._was[1]:
                self._say(f"{proposed['suggested']} proposals; Next begins their review.")
            self._try(self._show_found)
            if job is not None and job["state"] == "done" and job["kind"] == "pick":
                show_info(job["message"])
        self._was = state


def _angstroms(most: float) -> QDoubleSpinBox:
    box = QDoubleSpinBox()
    box.setRange(0.0, most)
    box.setDecimals(3 if most < 10_000 else 1)
    box.setSuffix(" Å")
    box.setSpecialValueText("not known")
    return box


def _row(*widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    for widget in widgets:
        row.addWidget(widget)
    return row


@contextmanager
def _quiet(widget: QWidget) -> Iterator[None]:
    """Change a widget without its signals."""
    before = widget.blockSignals(True)
    try:
        yield
    finally:
        widget.blockSignals(before)
