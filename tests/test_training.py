"""Training repeats itself, resumes to the same result, and learns what it is shown."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tomopicker.checkpoint import read_checkpoint, write_checkpoint
from tomopicker.config import Training, preset
from tomopicker.errors import InputError
from tomopicker.inference import network_of, score
from tomopicker.labels import IGNORED, NEGATIVE, POSITIVE, UNLABELLED, ball_voxels
from tomopicker.network import build
from tomopicker.pretrained import pretrained_weights
from tomopicker.task import Task, _split, prepare
from tomopicker.training import (
    Epoch,
    Step,
    _autocast,
    _restore,
    as_unseen,
    average_precision,
    calibrate,
    fit,
    learning_rate,
)
from tomopicker.types import Particles, Tomogram
from tomopicker.windows import cut, grid

RADIUS = 4
SHAPE = (32, 48, 48)
SMALL = {
    "default": {
        "network.channels": [4, 8],
        "sampling.side": 16,
        "sampling.steps_per_epoch": 6,
        "training.epochs": 3,
        "training.ema": 0.5,
        "inference.template_weight": 0.0,
    },
    "paper": {
        "network.channels": [4, 8],
        "sampling.side": 16,
        "sampling.stride": 16,
        "training.epochs": 2,
    },
}


def _tomogram(seed, name="one", dtype=np.float32, shape=SHAPE):
    """Dark balls on noise, far apart, and where they are."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    volume = rng.normal(0, 0.5, shape)
    along = [range(8, size - 7, 15) for size in shape]
    centres = np.array(list(itertools.product(*along)), dtype=float)
    centres += rng.uniform(-2, 2, centres.shape)
    for centre in centres:
        d2 = sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True))
        volume[d2 <= RADIUS**2] -= 2
    tomogram = Tomogram(name=name, data=volume.astype(dtype), voxel_size=10.0)
    return tomogram, Particles.from_voxels(centres, voxel_size=10.0)


def _task(preset_name, *, seed=0, clicks=8, validation=False, expected=18, **overrides):
    config = preset(
        preset_name,
        radius_angstrom=RADIUS * 10,
        voxel_size=10.0,
        expected=expected,
        overrides=SMALL[preset_name]
        | {"training.seed": seed}
        | {name.replace("__", "."): value for name, value in overrides.items()},
    )
    tomogram, particles = _tomogram(1)
    known = particles.select(np.arange(clicks))
    return prepare(config, [(tomogram, known)], _tomogram(2, "two") if validation else None)


def _epochs(task, **options):
    return [event for event in fit(task, **options) if isinstance(event, Epoch)]


@pytest.mark.parametrize("name", ["default", "paper"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(name):
    first, again, other = (_epochs(_task(name, seed=seed))[-1] for seed in (0, 0, 1))
    weights = first.checkpoint.weights
    assert all(torch.equal(weights[key], again.checkpoint.weights[key]) for key in weights)
    assert any(not torch.equal(weights[key], other.checkpoint.weights[key]) for key in weights)


@pytest.mark.parametrize("name", ["default", "paper"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(name):
    task = _task(name, network__dropout=0.2)
    whole = _epochs(task)
    for stopped_after in whole[:-1]:
        resumed = _epochs(task, resume=stopped_after.checkpoint)
        assert len(resumed) == len(whole) - stopped_after.number
        weights = whole[-1].checkpoint.weights
        again = resumed[-1].checkpoint
        assert all(torch.equal(weights[key], again.weights[key]) for key in weights)
        for row, expected in zip(
            again.description.history, whole[-1].checkpoint.description.history, strict=True
        ):
            assert row["loss"] == expected["loss"]


def test_a_run_of_other_picks_or_settings_is_not_resumed():
    checkpoint = _epochs(_task("default"))[0].checkpoint
    for other in (_task("default", clicks=9), _task("default", objective__name="kl")):
        with pytest.raises(InputError, match="other picks or settings"):
            next(fit(other, resume=checkpoint))
    longer = _task("default", training__epochs=4)
    assert _epochs(longer, resume=checkpoint)[0].number == 2


def test_a_run_validated_on_another_tomogram_is_not_resumed():
    checkpoint = _epochs(_task("paper", validation=True))[0].checkpoint
    with pytest.raises(InputError, match="validated on two: give the same tomograms"):
        next(fit(_task("paper"), resume=checkpoint))


# The meta device stands in for a GPU; nothing can be copied to it, of which torch warns.
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_a_resumed_average_is_on_the_device_of_the_network():
    task = _task("default")
    checkpoint = _epochs(task)[0].checkpoint
    network = build(task.config.network).to("meta")
    optimiser = torch.optim.Adam(network.parameters())
    average, _ = _restore(task, checkpoint, network, optimiser)
    assert {tensor.device.type for tensor in average.values()} == {"meta"}


def test_steps_are_told_and_the_best_epoch_is_marked():
    events = list(fit(_task("default", training__keep="best")))
    steps = [event for event in events if isinstance(event, Step)]
    epochs = [event for event in events if isinstance(event, Epoch)]
    assert [(step.epoch, step.step) for step in steps[:7]] == [(1, n) for n in range(1, 7)] + [
        (2, 1)
    ]
    assert epochs[0].is_kept
    measures = [epoch.measures["validation_ap"] for epoch in epochs]
    best = [epoch.number for epoch in epochs if epoch.is_kept][-1]
    assert measures[best - 1] == max(measures)


def test_the_default_preset_keeps_its_last_epoch():
    assert all(epoch.is_kept for epoch in _epochs(_task("default")))


@pytest.mark.parametrize("objective", ["pn", "pu", "kl", "balanced-pu"])
def test_every_objective_learns_to_rank_labelled_voxels_first(objective):
    task = _task("default", objective__name=objective, training__epochs=5, clicks=14)
    epochs = _epochs(task)
    share = (task.validation[0].labels == POSITIVE).mean()
    assert max(epoch.measures["validation_ap"] for epoch in epochs) > 4 * share


def test_the_paper_preset_trains_on_every_window_once_an_epoch():
    task = _task("paper")
    steps = [event for event in fit(task) if isinstance(event, Step) and event.epoch == 1]
    windows = len(grid(SHAPE, side=16, stride=16))
    assert len(steps) == -(-windows // 8)


def test_held_out_particles_count_neither_as_positive_nor_as_unlabelled():
    task = _task("default", clicks=10)
    (training,), (validation,) = task.training, task.validation
    assert (len(training.centres), len(validation.centres)) == (8, 2)
    for z, y, x in np.rint(validation.centres).astype(int):
        assert training.labels[z, y, x] == IGNORED
        assert validation.labels[z, y, x] == POSITIVE
    for z, y, x in np.rint(training.centres).astype(int):
        assert training.labels[z, y, x] == POSITIVE
        assert validation.labels[z, y, x] == IGNORED


def _accepting(accepted: int, clicked: int = 12) -> Task:
    """Of clicked and accepted particles of one tomogram, in this order."""
    tomogram, particles = _tomogram(1)
    config = preset(
        "default", radius_angstrom=40, voxel_size=10, expected=40, overrides=SMALL["default"]
    )
    known = particles.select(np.arange(clicked + accepted))
    # As another file rounds them.
    shown = particles.select(np.arange(clicked, clicked + accepted))
    shown = replace(shown, positions=shown.positions + 0.01)
    return prepare(config, [(tomogram, known)], accepted=[shown])


def test_what_was_accepted_from_a_list_is_learned_from_and_not_measured_by():
    task = _accepting(6)
    (training,), (validation,) = task.training, task.validation
    assert training.is_shown.sum() == 6
    for z, y, x in np.rint(training.centres[training.is_shown]).astype(int):
        assert training.labels[z, y, x] == POSITIVE
    # A fifth of the clicked ones, none of which was shown.
    assert (len(validation.centres), validation.is_shown.any()) == (2, False)


def test_accepted_particles_leave_clicked_ones_to_count_from():
    # 48 particles, in random order.
    tomogram, particles = _tomogram(1, shape=(32, 64, 96))
    particles = particles.select(np.random.default_rng(0).permutation(len(particles)))
    clicked, shown = particles.select(np.arange(10)), particles.select(np.arange(10, 22))
    known = particles.select(np.arange(22))
    config = preset("default", radius_angstrom=40, voxel_size=10, overrides=SMALL["default"])
    alone = prepare(config, [(tomogram, clicked)])
    both = prepare(config, [(tomogram, known)], accepted=[shown])
    for task in (alone, both):
        # Eight of ten clicks, as without accepted ones.
        assert (~task.training[0].is_shown).sum() == 8
    assert 0.5 < both.prior.expected / alone.prior.expected < 2


def test_a_tomogram_with_verdicts_alone_is_not_calibrated_by(monkeypatch):
    """Its scores are in other units than those where somebody clicked."""
    (here, clicked), (there, reviewed) = _tomogram(1), _tomogram(2, "two")
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

    monkeypatch.setattr("tomopicker.training.score", spy)
    calibrated = calibrate(task, _epochs(task)[-1].checkpoint)
    assert scored == [task.training[0].features]
    assert calibrated.description.calibration is not None


def test_where_hardly_any_other_was_clicked_accepted_particles_count_as_clicked():
    task = _accepting(12, clicked=5)
    assert not task.training[0].is_shown.any()
    assert len(task.validation[0].centres) == 3


def test_an_accepted_particle_must_be_among_the_labelled_ones():
    tomogram, particles = _tomogram(1)
    config = preset("default", radius_angstrom=40, voxel_size=10, overrides=SMALL["default"])
    known, other = particles.select(np.arange(12)), particles.select(np.arange(14, 15))
    with pytest.raises(InputError, match="--picks must hold what --accepted names"):
        prepare(config, [(tomogram, known)], accepted=[other])


def test_the_priors_are_those_of_the_labelled_volume():
    """With a validation tomogram nothing is held out: eq 2, 4 and 8 on whole-volume counts."""
    task = _task("paper", validation=True, clicks=6, expected=18)
    labels = task.training[0].labels
    positive, total = (labels == POSITIVE).sum(), labels.size
    assert task.prior.observed == positive / total
    ball = 257  # lattice points with d² <= 4²
    assert task.prior.expected == pytest.approx(18 * ball / total)
    assert task.prior.unlabelled == task.prior.expected - task.prior.observed


def test_the_expected_number_is_estimated_from_the_clicks():
    task = _task("default", clicks=9, expected=None)
    # 18 particles, 2 of which are held out, and whatever noise adds; cores have half the radius.
    counted = (task.training[0].labels != IGNORED).sum()
    particles = task.prior.expected * counted / ball_voxels(RADIUS / 2)
    assert 10 < particles < 40


def _rejecting(voxels: list[list[float]]) -> Task:
    tomogram, particles = _tomogram(1)
    config = preset(
        "default", radius_angstrom=40, voxel_size=10, expected=18, overrides=SMALL["default"]
    )
    wrong = Particles.from_voxels(np.array(voxels), voxel_size=10.0)
    return prepare(config, [(tomogram, particles.select(np.arange(8)))], rejected=[wrong])


def test_rejected_places_are_negative_and_lower_the_scores_there():
    _, particles = _tomogram(1)
    others = particles.voxels[8:]  # that a person rejects, though they look as the clicked ones
    scores = {}
    for weight in (0.0, 4.0):
        task = _rejecting(others.tolist())
        labels = task.training[0].labels
        for z, y, x in np.rint(others).astype(int):
            assert labels[z, y, x] == NEGATIVE
        settings = task.config.objective.model_copy(update={"rejected": weight})
        config = task.config.model_copy(update={"objective": settings})
        last = _epochs(replace(task, config=config))[-1].checkpoint
        volume = score(task.training[0].features, network_of(last), config)
        at = tuple(np.rint(others).astype(int).T)
        scores[weight] = volume[at].mean() - volume.mean()
    assert scores[4.0] < scores[0.0]


def test_the_prior_counts_rejected_places_neither_as_particles_nor_as_unlabelled():
    _, particles = _tomogram(1)
    one, two = (_rejecting(particles.voxels[8:stop].tolist()) for stop in (9, 11))
    unlabelled, positive = (
        np.array([(task.training[0].labels == value).sum() for task in (one, two)], dtype=float)
        for value in (UNLABELLED, POSITIVE)
    )
    assert unlabelled[0] > unlabelled[1]
    observed = positive / (positive + unlabelled)
    assert [task.prior.observed for task in (one, two)] == pytest.approx(observed, rel=1e-12)


def test_a_place_that_is_labelled_and_rejected_is_refused():
    _, particles = _tomogram(1)
    with pytest.raises(InputError, match=r"that of a labelled particle: take it out of --picks"):
        _rejecting([(particles.voxels[0] + [0, 1, 0]).tolist()])


def test_padding_is_ignored_not_unlabelled():
    task = _task("paper")
    part = task.training[0]
    window = grid((40, 48, 48), side=16, stride=16)[-1]
    volume, labels = part.sample(window)
    assert volume.shape == (1, 16, 16, 16)
    inside = cut(np.ones(SHAPE, dtype=np.uint8), window)
    assert (labels[inside == 0] == IGNORED).all()
    assert set(np.unique(labels[inside == 1])) <= {POSITIVE, UNLABELLED, IGNORED}


def test_voxels_that_are_not_numbers_are_ignored():
    tomogram, particles = _tomogram(1)
    tomogram.data[:, :, :4] = np.nan
    config = preset(
        "default", radius_angstrom=40, voxel_size=10, expected=18, overrides=SMALL["default"]
    )
    task = prepare(config, [(tomogram, particles.select(np.arange(8)))])
    assert (task.training[0].labels[:, :, :2] == IGNORED).all()
    assert all(np.isfinite(epoch.measures["loss"]) for epoch in _epochs(task))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expected": 8}, "8 particles expected per tomogram, but 8 are labelled"),
        ({"sampling__side": 8, "network__channels": [4, 8]}, None),
        ({"clicks": 1}, "label more"),
    ],
)
def test_a_task_that_cannot_be_learned_is_refused(options, message):
    if message is None:
        assert _task("default", **options).radius == RADIUS
        return
    with pytest.raises(InputError, match=message):
        _task("default", **options)


def test_a_particle_larger_than_the_window_or_the_tomogram_is_refused():
    tomogram, particles = _tomogram(1)
    for radius, message in ((90, "the window is"), (170, "cannot hold a particle")):
        side = 8 if radius == 90 else 64
        config = preset(
            "default",
            radius_angstrom=radius,
            voxel_size=10,
            expected=18,
            overrides=SMALL["default"] | {"sampling.side": side},
        )
        with pytest.raises(InputError, match=message):
            prepare(config, [(tomogram, particles)])


def test_the_paper_preset_refuses_tomograms_of_unequal_voxel_size():
    tomogram, particles = _tomogram(1)
    other = Tomogram(name="two", data=tomogram.data, voxel_size=12.0)
    config = preset(
        "paper", radius_angstrom=40, voxel_size=10, expected=18, overrides=SMALL["paper"]
    )
    with pytest.raises(InputError, match="two: voxel size 12"):
        prepare(config, [(tomogram, particles), (other, particles)])


def test_the_paper_preset_asks_for_the_expected_number():
    with pytest.raises(InputError, match="--expected N; to estimate it"):
        _task("paper", expected=None)


def test_the_rate_is_halved_after_five_epochs_without_a_better_measure():
    settings = Training(learning_rate=0.002)
    rates = [learning_rate(settings, measures) for measures in (
        [], [0.1], [0.1] * 5, [0.1] * 6, [0.1] * 6 + [0.2], [0.1] * 11,
        [0.1, 0.05, 0.05, 0.05, 0.05, 0.2, 0.1, 0.1, 0.1, 0.1],
    )]  # fmt: skip
    assert rates == [0.002, 0.002, 0.002, 0.001, 0.001, 0.0005, 0.002]


def test_the_cosine_starts_at_the_rate_and_ends_near_zero():
    settings = Training(learning_rate=0.002, schedule="cosine", epochs=4)
    rates = [learning_rate(settings, [0.1] * done) for done in range(4)]
    np.testing.assert_allclose(rates, [0.002, 0.0017071, 0.001, 0.0002929], rtol=1e-4)


def test_average_precision_worked_by_hand():
    scores = np.float32([5, 4, 3, 2])
    positive = np.array([False, True, False, True])
    assert average_precision(scores, positive) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert average_precision(scores, np.zeros(4, dtype=bool)) == 0


def test_calibration_scores_the_held_out_particles_where_there_are_enough():
    task = _task("default", validation=True, clicks=8)
    checkpoint = calibrate(task, _epochs(task)[-1].checkpoint)
    calibration = checkpoint.description.calibration
    assert calibration.held_out
    assert calibration.labelled == 18
    assert 0 < len(calibration.labelled_scores) <= 18
    few = _task("default", clicks=8)
    calibration = calibrate(few, _epochs(few)[-1].checkpoint).description.calibration
    assert not calibration.held_out
    assert calibration.labelled == 8


def test_aligned_particles_are_averaged_where_others_are_held_out(monkeypatch):
    monkeypatch.setattr("tomopicker.template._ROUNDS", [(50, 0.3)])
    weight = {"inference__template_weight": 50.0}
    task = _task("default", validation=True, clicks=8, **weight)
    heard, asked, shares = [], [], []

    def weigh(scores, contrasts, is_labelled, *, labelled_share, most):
        shares.append(labelled_share)
        asked.append((len(scores), np.isfinite(contrasts).all(), np.sum(is_labelled), most))
        return 7.0

    monkeypatch.setattr("tomopicker.training.shape_weight", weigh)
    checkpoint = _epochs(task)[-1].checkpoint
    calibrated = calibrate(task, checkpoint, progress=heard.append)
    assert calibrated.template is not None
    assert calibrated.description.template_weight == 7
    ((number, is_finite, held_out, most),) = asked
    assert (is_finite, most) == (True, 50)
    assert number > held_out > 0
    # The validation tomogram's particles are among those that its volume is expected to hold.
    core = ball_voxels(task.config.labels.core_radius(task.radius))
    expected = task.prior.expected * np.prod(SHAPE) / core
    labelled = len(task.validation[0].centres)
    assert shares[0] == pytest.approx(labelled / max(expected, labelled), rel=0.05)
    assert calibrated.description.aligned == 8
    assert heard == sorted(heard)
    assert heard[-1] == 1
    # Its contrast is part of the scores that it is calibrated by.
    off = {"inference__template_weight": 0.0}
    plain = calibrate(_task("default", validation=True, clicks=8, **off), checkpoint)
    assert plain.template is None
    scores = [one.description.calibration.raw_scores for one in (calibrated, plain)]
    assert len(scores[0]) == len(scores[1])
    assert scores[0] != scores[1]
    # Where it is worth nothing, the scores are as they were.
    monkeypatch.setattr("tomopicker.training.shape_weight", lambda *_, **__: 0.0)
    unweighed = calibrate(task, checkpoint).description
    assert unweighed.template_weight == 0
    assert unweighed.calibration == plain.description.calibration
    # All of these would be aligned, and fit their own average too well to calibrate by.
    alone = _task("default", clicks=8, **weight)
    assert calibrate(alone, checkpoint).template is None
    few = _task("default", validation=True, clicks=7, **weight)
    assert calibrate(few, checkpoint).template is None


def test_training_particles_tell_how_scores_scatter_lowered_to_the_held_out_ones(monkeypatch):
    task = _task("default", clicks=17, training__held_out=0.6)
    (trained,), (held_out,) = task.training, task.validation
    assert len(held_out.centres) >= 10
    # A peak on each particle; training ones score 20, the others 5.
    centres = np.concatenate([trained.centres, held_out.centres])
    scores = np.where(np.arange(len(centres)) < len(trained.centres), 20.0, 5.0)
    monkeypatch.setattr(
        "tomopicker.training.find_candidates", lambda *_, **__: (centres + 0.5, scores)
    )
    calibration = calibrate(task, _epochs(task)[-1].checkpoint).description.calibration
    assert calibration.held_out
    assert calibration.labelled == 17
    assert calibration.raw_scores == (5.0,) * 17


def labelled(features, places, shown=()):
    """What `as_unseen` asks of a part of a task."""
    is_shown = np.isin(np.arange(len(places)), shown)
    return SimpleNamespace(features=features, centres=np.array(places), is_shown=is_shown)


def line(*along):
    return [[0.0, 0.0, 10.0 * x] for x in along]


def test_what_was_learned_from_is_lowered_to_what_was_held_out():
    one, two = object(), object()
    # Two tomograms: of the first 0, 2 and 5 were learned from, the last of them accepted in a
    # review; of the second 1. Held out are 3 and 4 of the first.
    task = SimpleNamespace(
        radius=4,
        training=[labelled(one, line(0, 2, 5), shown=[2]), labelled(two, line(1))],
        validation=[labelled(one, line(3, 4))],
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
        radius=4, training=[labelled(one, line(3))], validation=[labelled(one, line(0))]
    )
    missed = SimpleNamespace(
        radius=4, training=[labelled(one, line(0))], validation=[labelled(one, line(50))]
    )
    for task in (better, missed):
        ((_, _, scores),) = as_unseen(peaks, task)
        assert scores.tolist() == [9, 8, 7, 5]


def test_calibration_tells_tomograms_of_one_name_apart(monkeypatch):
    task = _task("default", clicks=8)
    tomogram, particles = _tomogram(2, "one")
    two = prepare(
        task.config,
        [(_tomogram(1)[0], _tomogram(1)[1].select(np.arange(8)))],
        (tomogram, particles.select(np.arange(5))),
    )
    scored = []
    monkeypatch.setattr("tomopicker.training.score", lambda f, *_, **__: scored.append(f) or f.data)
    calibrate(two, _epochs(two)[0].checkpoint)
    assert [f.data[0, 0, 0] for f in scored] == [
        two.validation[0].features.data[0, 0, 0],
        two.training[0].features.data[0, 0, 0],
    ]


def test_a_loss_that_is_not_finite_stops_with_a_remedy():
    task = _task("default", training__learning_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"--set training\.learning_rate="):
        list(fit(task))


def test_weights_that_the_last_step_spoiled_are_no_checkpoint():
    # Beyond single precision; the loss of the only step was computed before it.
    task = _task("default", training__learning_rate=1e39, sampling__steps_per_epoch=1)
    progress = []
    with pytest.raises(FloatingPointError, match="a weight is not finite in epoch 1: train anew"):
        progress.extend(fit(task))
    assert not [event for event in progress if isinstance(event, Epoch)]


@pytest.mark.parametrize("ema", [0.98, 0.0])
def test_a_run_from_pretrained_weights_is_saved_and_resumed_to_the_same_result(tmp_path, ema):
    overrides = {
        "training.epochs": 2,
        "training.ema": ema,
        "training.batch": 2,
        "sampling.steps_per_epoch": 2,  # after one the average is still the weights
    }
    config = preset("default", radius_angstrom=40, voxel_size=10.0, overrides=overrides)
    tomogram, particles = _tomogram(1)
    task = prepare(config, [(tomogram, particles.select(np.arange(8)))])
    first, second = _epochs(task)
    write_checkpoint(tmp_path / "checkpoint.safetensors", first.checkpoint)
    (resumed,) = _epochs(task, resume=read_checkpoint(tmp_path / "checkpoint.safetensors"))
    for name, tensor in second.checkpoint.weights.items():
        assert torch.equal(tensor, resumed.checkpoint.weights[name]), name


def test_the_fewer_clicks_the_nearer_the_kept_weights_are_to_the_pretrained_ones():
    distances = []
    for worth in (0.0, 8.0, 1e9):
        overrides = {
            "training.epochs": 1,
            "sampling.steps_per_epoch": 1,
            "training.batch": 2,
            "training.start_worth": worth,
        }
        config = preset("default", radius_angstrom=40, voxel_size=10.0, overrides=overrides)
        tomogram, particles = _tomogram(1)
        task = prepare(config, [(tomogram, particles.select(np.arange(10)))])  # 8 to train on
        (epoch,) = _epochs(task)
        first = pretrained_weights(config.network)
        name = "core.head.weight"
        distances.append(float((epoch.checkpoint.weights[name] - first[name]).norm()))
    whole, half, none = distances
    assert whole > 0
    assert half == pytest.approx(whole / 2, rel=1e-3)
    assert none < 1e-6 * whole


@pytest.mark.parametrize(("clicks", "kept_out"), [(2, 1), (10, 2), (18, 4), (20, 10), (25, 10)])
def test_at_least_ten_clicks_are_kept_out_where_as_many_are_left(clicks, kept_out):
    rng = np.random.default_rng(0)
    centres = rng.uniform(6, 26, size=(clicks, 3))
    config = preset("default", radius_angstrom=40, voxel_size=10.0)
    table = Particles.from_voxels(centres, voxel_size=10.0)
    ((kept, out, _),) = _split([table], [np.zeros(clicks, dtype=bool)], True, config, rng)
    assert (len(kept), len(out)) == (clicks - kept_out, kept_out)


@pytest.mark.parametrize("counts", [(20, 1), (1, 0, 19), (1, 1), (30, 30)])
def test_a_share_of_all_particles_is_kept_out_however_few_a_tomogram_has(counts):
    rng = np.random.default_rng(0)
    config = preset("default", radius_angstrom=40, voxel_size=10.0)
    tables = [
        Particles.from_voxels(rng.uniform(6, 26, size=(count, 3)), voxel_size=10.0)
        for count in counts
    ]
    shown = [np.zeros(count, dtype=bool) for count in counts]
    splits = _split(tables, shown, True, config, rng)
    for table, (kept, out, _) in zip(tables, splits, strict=True):
        both = np.concatenate([kept.positions, out.positions])
        assert {tuple(at) for at in both} == {tuple(at) for at in table.positions}
        assert len(both) == len(table)
    total = sum(counts)
    wanted = max(10, round(0.2 * total)) if total >= 20 else 1
    assert sum(len(out) for _, out, _ in splits) == wanted


def test_mixed_precision_changes_nothing_on_a_cpu():
    single, mixed = (
        _epochs(_task("paper", training__precision=precision, training__epochs=1))[-1].checkpoint
        for precision in ("single", "mixed")
    )
    assert all(torch.equal(single.weights[key], mixed.weights[key]) for key in single.weights)


def test_mixed_precision_learns_as_single_and_keeps_single_weights(monkeypatch):
    """A CPU's bfloat16 stands in for a GPU's."""
    single = _epochs(_task("default"))[-1]
    used = []

    def half(device, settings):
        used.append(settings.precision)
        return torch.autocast(device, dtype=torch.bfloat16)

    monkeypatch.setattr("tomopicker.training._autocast", half)
    mixed = _epochs(_task("default", training__precision="mixed"))[-1]
    assert set(used) == {"mixed"}
    assert mixed.measures["loss"] != single.measures["loss"]
    assert mixed.measures["loss"] == pytest.approx(single.measures["loss"], rel=0.05)
    weights = [value for value in mixed.checkpoint.weights.values() if value.is_floating_point()]
    assert {value.dtype for value in weights} == {torch.float32}


@pytest.mark.parametrize(
    ("device", "precision", "is_native", "expected"),
    [
        ("cuda:0", "mixed", True, True),
        ("cuda:0", "mixed", False, False),
        ("cuda:0", "single", True, False),
        ("cpu", "mixed", True, False),
    ],
)
def test_only_a_gpu_that_has_bfloat16_is_asked_for_it(
    device, precision, is_native, expected, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: is_native)
    monkeypatch.setattr("torch.autocast", lambda kind, dtype, enabled: (kind, dtype, enabled))
    asked = _autocast(device, Training(precision=precision))
    assert asked == (device.split(":")[0], torch.bfloat16, expected)
