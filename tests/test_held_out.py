"""After training: what is averaged, how much its shape counts, and how particles score."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from small_task import RADIUS, SMALL, epochs_of, task_of, tomogram_of
from tomopicker.config import preset
from tomopicker.contrasts import Contrasts
from tomopicker.held_out import as_unseen, calibrate, clicked_places, likely_particles
from tomopicker.inference import score
from tomopicker.mixture import Mixture
from tomopicker.task import prepare
from tomopicker.template import Compared, Template


def test_calibration_scores_the_held_out_particles_where_there_are_enough():
    task = task_of("default", validation=True, clicks=8)
    checkpoint = calibrate(task, epochs_of(task)[-1].checkpoint)
    calibration = checkpoint.description.calibration
    assert calibration.held_out
    assert calibration.labelled == 18
    assert 0 < len(calibration.labelled_scores) <= 18
    few = task_of("default", clicks=8)
    calibration = calibrate(few, epochs_of(few)[-1].checkpoint).description.calibration
    assert not calibration.held_out
    assert calibration.labelled == 8


@pytest.mark.usefixtures("rough_alignment")
def test_aligned_particles_are_averaged(monkeypatch):
    weight = {"inference__template_weight": 50.0}
    task = task_of("default", validation=True, clicks=8, **weight)
    heard, asked, learned_from = [], [], []
    learned = Contrasts(slope=1.0, mean=0.0, apart=0.1, deviation=0.02)

    def fit(scores, contrasts, chances, *, most, known_gain, **peaks):
        is_labelled = peaks["is_labelled"]
        lengths = {len(values) for values in (scores, contrasts, chances, *peaks.values())}
        asked.append((len(lengths), np.isfinite(contrasts).all(), most, known_gain))
        learned_from.append(int(np.sum(peaks["is_trained"])))
        assert len(scores) > np.sum(is_labelled) > 0
        assert not np.any(peaks["is_trained"] & ~is_labelled)
        return Mixture(weight=7.0, gain=0.01, chances=chances, learned=learned)

    monkeypatch.setattr("tomopicker.held_out.fit_mixture", fit)
    checkpoint = epochs_of(task)[-1].checkpoint
    # No more than are there are needed.
    monkeypatch.setattr("tomopicker.held_out._ENOUGH_TO_ALIGN", 8)
    calibrated = calibrate(task, checkpoint, progress=heard.append)
    assert calibrated.template is not None
    assert calibrated.description.template_weight == 7
    assert calibrated.description.contrasts == learned
    # No other peak joins them, so there is no second average.
    assert asked == [(1, True, 50, None)]
    # The tomogram that the network has learned in is scored, too.
    assert learned_from[0] > 0
    assert calibrated.description.aligned == 8
    assert heard == sorted(heard)
    assert heard[-1] == 1
    # Its contrast is part of the scores that it is calibrated by.
    off = {"inference__template_weight": 0.0}
    plain = calibrate(task_of("default", validation=True, clicks=8, **off), checkpoint)
    assert plain.template is None
    scores = [one.description.calibration.raw_scores for one in (calibrated, plain)]
    assert len(scores[0]) == len(scores[1])
    assert scores[0] != scores[1]
    # And the tomogram of training has no say there.
    assert calibrated.description.calibration.labelled == plain.description.calibration.labelled
    # Where nothing is held out, too.
    alone = task_of("default", clicks=10, **weight)
    assert calibrate(alone, checkpoint).description.template_weight == 7
    assert 0 < learned_from[1] <= len(alone.training[0].centres)
    # Where it is worth nothing, the scores are as they were, and no second one is made. An earlier
    # calibration leaves nothing.
    del asked[:]
    nothing = Mixture(weight=0.0, gain=0.0, chances=np.empty(0))
    monkeypatch.setattr(
        "tomopicker.held_out.fit_mixture", lambda *_, **__: asked.append(0) or nothing
    )
    del heard[:]
    unweighed = calibrate(task, calibrated, progress=heard.append).description
    assert asked == [0]
    assert heard[-1] == 1
    assert unweighed.template_weight == 0
    assert unweighed.contrasts is None
    assert unweighed.calibration == plain.description.calibration
    few = task_of("default", validation=True, clicks=7, **weight)
    without = calibrate(few, calibrated)
    assert without.template is None
    assert (without.description.aligned, without.description.template_weight) == (0, 0)


def test_training_particles_tell_how_scores_scatter_lowered_to_the_held_out_ones(monkeypatch):
    task = task_of("default", clicks=17, training__held_out=0.6)
    (trained,), (held_out,) = task.training, task.validation
    assert len(held_out.centres) >= 10
    # A peak on each particle; training ones score 20, the others 5.
    centres = np.concatenate([trained.centres, held_out.centres])
    scores = np.where(np.arange(len(centres)) < len(trained.centres), 20.0, 5.0)
    monkeypatch.setattr(
        "tomopicker.held_out.find_candidates", lambda *_, **__: (centres + 0.5, scores)
    )
    calibration = calibrate(task, epochs_of(task)[-1].checkpoint).description.calibration
    assert calibration.held_out
    assert calibration.labelled == 17
    assert calibration.raw_scores == (5.0,) * 17


def part(features, places, shown=(), rejected=()):
    """What is asked of a part of a task."""
    return SimpleNamespace(
        features=features,
        centres=np.array(places).reshape(-1, 3),
        is_shown=np.isin(np.arange(len(places)), shown),
        rejected=np.array(rejected).reshape(-1, 3),
    )


def line(*along):
    return [[0.0, 0.0, 10.0 * x] for x in along]


def test_what_was_learned_from_is_lowered_to_what_was_held_out():
    one, two = object(), object()
    # Two tomograms: of the first 0, 2 and 5 were learned from, the last of them accepted in a
    # review; of the second 1. Held out are 3 and 4 of the first.
    task = SimpleNamespace(
        radius=4,
        training=[part(one, line(0, 2, 5), shown=[2]), part(two, line(1))],
        validation=[part(one, line(3, 4))],
    )
    first = np.array([9.0, 8, 7, 5, 4, 1])
    peaks = [(one, np.array(line(*range(6))) + 1, first), (two, np.array(line(0, 1)), first[:2])]
    (_, centres, scores), (_, others, also) = as_unseen(peaks, task)
    # Clicked ones had 9, 7 and 8 on average, those held out 4.5: 3.5 too much.
    assert scores.tolist() == [8, 5.5, 5, 4, 3.5, -2.5]
    assert (centres[:, 2] - 1).tolist() == [10, 0, 30, 40, 20, 50]
    assert also.tolist() == [9, 4.5]
    assert others[:, 2].tolist() == [0, 10]


def test_nothing_is_raised_to_what_was_held_out_nor_lowered_to_nothing():
    one = object()
    peaks = [(one, np.array(line(*range(4))), np.array([9.0, 8, 7, 5]))]
    better = SimpleNamespace(
        radius=4, training=[part(one, line(3))], validation=[part(one, line(0))]
    )
    missed = SimpleNamespace(
        radius=4, training=[part(one, line(0))], validation=[part(one, line(50))]
    )
    for task in (better, missed):
        ((_, _, scores),) = as_unseen(peaks, task)
        assert scores.tolist() == [9, 8, 7, 5]


def test_calibration_tells_tomograms_of_one_name_apart(monkeypatch):
    task = task_of("default", clicks=8)
    tomogram, particles = tomogram_of(2, "one")
    two = prepare(
        task.config,
        [(tomogram_of(1)[0], tomogram_of(1)[1].select(np.arange(8)))],
        (tomogram, particles.select(np.arange(5))),
    )
    scored = []
    monkeypatch.setattr("tomopicker.held_out.score", lambda f, *_, **__: scored.append(f) or f.data)
    calibrate(two, epochs_of(two)[0].checkpoint)
    assert [f.data[0, 0, 0] for f in scored] == [
        two.validation[0].features.data[0, 0, 0],
        two.training[0].features.data[0, 0, 0],
    ]


def test_a_tomogram_with_verdicts_alone_is_not_calibrated_by(monkeypatch):
    """Its scores are in other units than those where somebody clicked."""
    (here, clicked), (there, reviewed) = tomogram_of(1), tomogram_of(2, "two")
    config = preset(
        "default", radius_angstrom=40, voxel_size=10, expected=40, overrides=SMALL["default"]
    )
    none, some = reviewed.select(np.arange(0)), reviewed.select(np.arange(6))
    labelled = [(here, clicked.select(np.arange(12))), (there, some)]
    task = prepare(config, labelled, accepted=[none, some])
    scored = []

    def spy(features, *arguments, **options):
        scored.append(features)
        return score(features, *arguments, **options)

    monkeypatch.setattr("tomopicker.held_out.score", spy)
    calibrated = calibrate(task, epochs_of(task)[-1].checkpoint)
    assert scored == [task.training[0].features]
    assert calibrated.description.calibration is not None


def test_likely_particles_are_unlabelled_peaks_where_others_were_learned_from(monkeypatch):
    here, there, elsewhere, reviewed = (object() for _ in range(4))
    task = SimpleNamespace(
        radius=4,
        training=[
            part(here, line(0), rejected=line(1)),
            part(there, line(9)),
            part(reviewed, []),
        ],
        # Its second peak, at 20, is nearer than a radius.
        validation=[part(here, line(2.35)), part(elsewhere, line(9)), part(reviewed, line(9))],
    )
    chances = np.array([0.99, 0.98, 0.97, 0.96, 0.95, 0.3])
    scores = np.arange(6.0)[::-1]
    peaks = [(one, np.array(line(*range(6))), scores) for one in (here, there, elsewhere, reviewed)]

    def likely(share=1.0):
        found = likely_particles(task, peaks, [chances] * 4, share=share)
        return [np.flatnonzero(some).tolist() for some in found]

    assert likely() == [[3, 4], [0, 1, 2, 3, 4], [], []]
    # With the two to learn from there are five at most: the likeliest of both tomograms.
    monkeypatch.setattr("tomopicker.held_out._ENOUGH_TO_ALIGN", 5)
    assert likely() == [[], [0, 1, 2], [], []]
    # And no more than a share of those that are expected in these two. Two that are labelled and
    # one that was rejected are no longer to be found.
    hidden = 2 * chances.sum() - chances[:3].sum()
    assert likely(share=2 / hidden) == [[], [0, 1], [], []]
    monkeypatch.setattr("tomopicker.held_out._ENOUGH_TO_ALIGN", 1)
    assert likely() == [[]] * 4


@pytest.mark.parametrize(("click_error", "most"), [(0.0, 0.3), (2.0, 1.5), (3.0, 1.8)])
def test_clicks_beside_the_centres_are_put_right(click_error, most):
    """Peaks are 1.4 voxels off, at a radius of 7: how far clicks are must be found out."""
    rng = np.random.default_rng(0)
    # Two tomograms; the last particle of the first has no peak.
    centres = 30.0 * rng.permutation(np.stack(np.mgrid[:4, :4, :4], axis=-1).reshape(-1, 3))
    off = rng.normal(scale=click_error / np.sqrt(3), size=centres.shape)
    peaks = centres + rng.normal(scale=1.4 / np.sqrt(3), size=centres.shape)
    one, two = object(), object()
    task = SimpleNamespace(
        radius=7,
        training=[part(one, (centres + off)[:31]), part(two, (centres + off)[31:])],
    )
    (own, first), (also, second) = clicked_places(task, [(two, peaks[31:]), (one, peaks[:30])])
    assert (own, also) == (one, two)
    np.testing.assert_array_equal(first[30], (centres + off)[30])
    left = np.delete(np.concatenate([first, second]) - centres, 30, axis=0)
    assert np.sqrt((left**2).sum(axis=1).mean()) < most


def test_accepted_particles_are_put_right_apart_from_clicked_ones():
    """They were peaks themselves; the clicks are much farther off."""
    one = object()
    clicks, accepted = np.array(line(0, 1, 2)), np.array(line(3, 4, 5))
    beside, near = np.array([3.0, 0, 0]), np.array([0.5, 0, 0])
    places = np.concatenate([clicks, accepted])
    task = SimpleNamespace(radius=7, training=[part(one, places, shown=[3, 4, 5])])
    peaks = np.concatenate([clicks + beside, accepted + near])
    ((_, moved),) = clicked_places(task, [(one, peaks)])
    np.testing.assert_array_equal(moved[3:], accepted)
    share = 1 - 1.4**2 / 3**2
    np.testing.assert_allclose(moved[:3], clicks + share * beside)


def test_what_is_in_the_average_has_its_gain_taken_off(monkeypatch):
    """A peak on each particle; the first eight are learned from, the next ten held out."""
    task = task_of(
        "default",
        clicks=18,
        expected=30,
        training__held_out=0.55,
        inference__template_weight=10.0,
    )
    (trained,), (held,) = task.training, task.validation
    assert (len(trained.centres), len(held.centres)) == (8, 10)
    checkpoint = epochs_of(task)[-1].checkpoint
    # One was accepted in a review, which asks for those that are less clear.
    task = replace(task, training=(replace(trained, is_shown=np.arange(8) == 7),))
    others = np.array(line(*range(4))) + np.array([60.0, 0, 0])
    centres = np.concatenate([trained.centres, held.centres, others])
    scores = np.linspace(9, 8, len(centres))
    near = np.repeat([0.6, 0.1, 0.5, 0.4], [7, 1, 10, 4])
    asked, averaged, added, devices = [], [], [], []

    def learn_template(places, *, start, **_):
        averaged.append((places, start, str(torch.get_default_device())))
        return Template(volume=np.full((3, 3, 3), len(averaged), dtype=np.float32))

    def compare_peaks(*_, device, progress):
        devices.append(device)
        return Compared(contrasts=near.copy(), moves=np.full((len(near), 3), 0.4))

    def fit(*given, **named):
        asked.append((given, named))
        # By shape another three are the likely ones.
        chances = np.repeat([0.0, 0.9], [19, 3])
        return Mixture(weight=10.0, gain=named["known_gain"] or 0.1, chances=chances)

    def add_shape(checkpoint, __, places, scores, fit):
        assert checkpoint.description.template_weight == 10
        added.append(fit)
        return places, scores + 10 * fit.contrasts

    by_score = np.repeat([0.0, 0.9, 0.1], [18, 2, 2])
    patches = {
        "score": lambda features, *_, **__: np.zeros(features.shape),
        "find_candidates": lambda *_, **__: (centres, scores),
        "_chances_by_score": lambda *_, held_out, **__: [by_score] if held_out else [],
        "_SHARES_OF_HIDDEN": (1.2, 1.2),
        "learn_template": learn_template,
        "compare_peaks": compare_peaks,
        "fit_mixture": fit,
        "add_shape": add_shape,
    }
    for name, function in patches.items():
        monkeypatch.setattr(f"tomopicker.held_out.{name}", function)
    calibrated = calibrate(task, checkpoint, device="cuda:0")
    # The clicked ones and two likely ones; the second time three, by their shape.
    # These have moved to where the first average fits.
    for number, rows in enumerate((others[:2], others[1:] + 0.4)):
        (((_, places),), start, device) = averaged[number]
        # The second goes on from the first.
        assert (0 if start is None else start.volume[0, 0, 0]) == number
        np.testing.assert_allclose(places, [*trained.centres, *rows])
        assert device == "cuda:0"
        ((told, fits, chances), named) = asked[number]
        np.testing.assert_allclose(told, scores)
        np.testing.assert_allclose(fits, near)
        np.testing.assert_allclose(chances, by_score)
        assert named["is_labelled"].tolist() == [True] * 18 + [False] * 4
        is_aligned = np.isin(np.arange(22), [*range(8), *range(18 + number, 20 + 2 * number)])
        assert named["is_aligned"].tolist() == is_aligned.tolist()
        assert named["most"] == 10.0
    # The more there are, the less each one gains.
    gain = 0.1 * 10 / 11
    assert [named["known_gain"] for _, named in asked] == [None, pytest.approx(gain)]
    assert calibrated.description.aligned == 11
    np.testing.assert_allclose(added[0].contrasts, near - gain * is_aligned)
    np.testing.assert_allclose(added[0].moves, 0.4)
    assert devices == ["cuda:0", "cuda:0"]


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_likely_particles_are_aligned_and_held_out_ones_are_not(monkeypatch, is_elsewhere):
    """18 particles to learn from and 12 held out, here or elsewhere; the others score as these."""
    tomogram, particles = tomogram_of(1, shape=(32, 96, 96))
    another, others = tomogram_of(2, "two", shape=(32, 96, 96))
    config = preset(
        "default",
        radius_angstrom=40,
        voxel_size=10,
        expected=72,
        overrides=SMALL["default"]
        | {"training.held_out": 0.4, "inference.template_weight": 10.0, "training.epochs": 1},
    )
    clicked = particles.select(np.arange(18 if is_elsewhere else 30))
    validation = (another, others.select(np.arange(12))) if is_elsewhere else None
    task = prepare(config, [(tomogram, clicked)], validation)
    rng = np.random.default_rng(0)
    found = []
    for some in [others, particles] if is_elsewhere else [particles]:
        noise = rng.uniform(0, 30, (400, 3)) + np.array([500, 0, 0])
        scores = np.concatenate([rng.normal(10, 0.5, 72), rng.exponential(1.5, 400)])
        order = np.argsort(-scores)
        found.append((np.concatenate([some.voxels, noise])[order], scores[order]))
    aligned = []

    def learn_template(tomograms, **_):
        aligned.extend(tomograms)
        return Template(volume=np.ones((3, 3, 3), dtype=np.float32))

    for name, function in {
        "find_candidates": lambda *_, **__: found.pop(0),
        "learn_template": learn_template,
        "compare_peaks": lambda *_, **__: Compared(
            contrasts=np.zeros(472), moves=np.zeros((472, 3))
        ),
    }.items():
        monkeypatch.setattr(f"tomopicker.held_out.{name}", function)
    heard = []
    calibrated = calibrate(task, epochs_of(task)[-1].checkpoint, progress=heard.append)
    assert heard == sorted(heard)
    (trained,), (held,) = task.training, task.validation
    assert len(held.centres) == 12
    assert calibrated.description.aligned == len(aligned[-1][1])
    assert calibrated.description.calibration.labelled == (12 if is_elsewhere else 30)
    unlabelled = particles.voxels[len(clicked) :]
    # Contrasts that tell nothing do not keep from trying an average of more.
    assert len(aligned[0][1]) < len(aligned[1][1])
    for features, places in aligned:
        assert features is trained.features
        assert len(places) > 18 + 15
        assert np.isin(trained.centres, places).all()
        true = sum(np.abs(unlabelled - place).max(axis=1).min() < 1e-6 for place in places[18:])
        assert true / len(places[18:]) > 0.9
        apart = np.linalg.norm(places[:, None] - held.centres[None], axis=2)
        assert is_elsewhere or apart.min() > RADIUS
