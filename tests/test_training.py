"""Training repeats itself, resumes to the same result, and learns what it is shown."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from small_task import RADIUS, SHAPE, SMALL, epochs_of, task_of, tomogram_of
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
    average_precision,
    fit,
    learning_rate,
)
from tomopicker.types import Particles, Tomogram
from tomopicker.windows import cut, grid


@pytest.mark.parametrize("name", ["default", "paper"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(name):
    first, again, other = (epochs_of(task_of(name, seed=seed))[-1] for seed in (0, 0, 1))
    weights = first.checkpoint.weights
    assert all(torch.equal(weights[key], again.checkpoint.weights[key]) for key in weights)
    assert any(not torch.equal(weights[key], other.checkpoint.weights[key]) for key in weights)


@pytest.mark.parametrize("name", ["default", "paper"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(name):
    task = task_of(name, network__dropout=0.2)
    whole = epochs_of(task)
    for stopped_after in whole[:-1]:
        resumed = epochs_of(task, resume=stopped_after.checkpoint)
        assert len(resumed) == len(whole) - stopped_after.number
        weights = whole[-1].checkpoint.weights
        again = resumed[-1].checkpoint
        assert all(torch.equal(weights[key], again.weights[key]) for key in weights)
        for row, expected in zip(
            again.description.history, whole[-1].checkpoint.description.history, strict=True
        ):
            assert row["loss"] == expected["loss"]


def test_a_run_of_other_picks_or_settings_is_not_resumed():
    checkpoint = epochs_of(task_of("default"))[0].checkpoint
    for other in (task_of("default", clicks=9), task_of("default", objective__name="kl")):
        with pytest.raises(InputError, match="other picks or settings"):
            next(fit(other, resume=checkpoint))
    longer = task_of("default", training__epochs=4)
    assert epochs_of(longer, resume=checkpoint)[0].number == 2


def test_a_run_validated_on_another_tomogram_is_not_resumed():
    checkpoint = epochs_of(task_of("paper", validation=True))[0].checkpoint
    with pytest.raises(InputError, match="validated on two: give the same tomograms"):
        next(fit(task_of("paper"), resume=checkpoint))


# The meta device stands in for a GPU; nothing can be copied to it, of which torch warns.
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_a_resumed_average_is_on_the_device_of_the_network():
    task = task_of("default")
    checkpoint = epochs_of(task)[0].checkpoint
    network = build(task.config.network).to("meta")
    optimiser = torch.optim.Adam(network.parameters())
    average, _ = _restore(task, checkpoint, network, optimiser)
    assert {tensor.device.type for tensor in average.values()} == {"meta"}


def test_steps_are_told_and_the_best_epoch_is_marked():
    events = list(fit(task_of("default", training__keep="best")))
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
    assert all(epoch.is_kept for epoch in epochs_of(task_of("default")))


@pytest.mark.parametrize("objective", ["pn", "pu", "kl", "balanced-pu"])
def test_every_objective_learns_to_rank_labelled_voxels_first(objective):
    task = task_of("default", objective__name=objective, training__epochs=5, clicks=14)
    epochs = epochs_of(task)
    share = (task.validation[0].labels == POSITIVE).mean()
    assert max(epoch.measures["validation_ap"] for epoch in epochs) > 4 * share


def test_the_paper_preset_trains_on_every_window_once_an_epoch():
    task = task_of("paper")
    steps = [event for event in fit(task) if isinstance(event, Step) and event.epoch == 1]
    windows = len(grid(SHAPE, side=16, stride=16))
    assert len(steps) == -(-windows // 8)


def test_held_out_particles_count_neither_as_positive_nor_as_unlabelled():
    task = task_of("default", clicks=10)
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
    tomogram, particles = tomogram_of(1)
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
    tomogram, particles = tomogram_of(1, shape=(32, 64, 96))
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


def test_where_hardly_any_other_was_clicked_accepted_particles_count_as_clicked():
    task = _accepting(12, clicked=5)
    assert not task.training[0].is_shown.any()
    assert len(task.validation[0].centres) == 3


def test_an_accepted_particle_must_be_among_the_labelled_ones():
    tomogram, particles = tomogram_of(1)
    config = preset("default", radius_angstrom=40, voxel_size=10, overrides=SMALL["default"])
    known, other = particles.select(np.arange(12)), particles.select(np.arange(14, 15))
    with pytest.raises(InputError, match="--picks must hold what --accepted names"):
        prepare(config, [(tomogram, known)], accepted=[other])


def test_the_priors_are_those_of_the_labelled_volume():
    """With a validation tomogram nothing is held out: eq 2, 4 and 8 on whole-volume counts."""
    task = task_of("paper", validation=True, clicks=6, expected=18)
    labels = task.training[0].labels
    positive, total = (labels == POSITIVE).sum(), labels.size
    assert task.prior.observed == positive / total
    ball = 257  # lattice points with d² <= 4²
    assert task.prior.expected == pytest.approx(18 * ball / total)
    assert task.prior.unlabelled == task.prior.expected - task.prior.observed


def test_the_expected_number_is_estimated_from_the_clicks():
    task = task_of("default", clicks=9, expected=None)
    # 18 particles, 2 of which are held out, and whatever noise adds; cores have half the radius.
    counted = (task.training[0].labels != IGNORED).sum()
    particles = task.prior.expected * counted / ball_voxels(RADIUS / 2)
    assert 10 < particles < 40


def _rejecting(voxels: list[list[float]]) -> Task:
    tomogram, particles = tomogram_of(1)
    config = preset(
        "default", radius_angstrom=40, voxel_size=10, expected=18, overrides=SMALL["default"]
    )
    wrong = Particles.from_voxels(np.array(voxels), voxel_size=10.0)
    return prepare(config, [(tomogram, particles.select(np.arange(8)))], rejected=[wrong])


def test_rejected_places_are_negative_and_lower_the_scores_there():
    _, particles = tomogram_of(1)
    others = particles.voxels[8:]  # that a person rejects, though they look as the clicked ones
    scores = {}
    for weight in (0.0, 4.0):
        task = _rejecting(others.tolist())
        labels = task.training[0].labels
        for z, y, x in np.rint(others).astype(int):
            assert labels[z, y, x] == NEGATIVE
        settings = task.config.objective.model_copy(update={"rejected": weight})
        config = task.config.model_copy(update={"objective": settings})
        last = epochs_of(replace(task, config=config))[-1].checkpoint
        volume = score(task.training[0].features, network_of(last), config)
        at = tuple(np.rint(others).astype(int).T)
        scores[weight] = volume[at].mean() - volume.mean()
    assert scores[4.0] < scores[0.0]


def test_the_prior_counts_rejected_places_neither_as_particles_nor_as_unlabelled():
    _, particles = tomogram_of(1)
    one, two = (_rejecting(particles.voxels[8:stop].tolist()) for stop in (9, 11))
    unlabelled, positive = (
        np.array([(task.training[0].labels == value).sum() for task in (one, two)], dtype=float)
        for value in (UNLABELLED, POSITIVE)
    )
    assert unlabelled[0] > unlabelled[1]
    observed = positive / (positive + unlabelled)
    assert [task.prior.observed for task in (one, two)] == pytest.approx(observed, rel=1e-12)


def test_a_place_that_is_labelled_and_rejected_is_refused():
    _, particles = tomogram_of(1)
    with pytest.raises(InputError, match=r"that of a labelled particle: take it out of --picks"):
        _rejecting([(particles.voxels[0] + [0, 1, 0]).tolist()])


def test_padding_is_ignored_not_unlabelled():
    task = task_of("paper")
    part = task.training[0]
    window = grid((40, 48, 48), side=16, stride=16)[-1]
    volume, labels = part.sample(window)
    assert volume.shape == (1, 16, 16, 16)
    inside = cut(np.ones(SHAPE, dtype=np.uint8), window)
    assert (labels[inside == 0] == IGNORED).all()
    assert set(np.unique(labels[inside == 1])) <= {POSITIVE, UNLABELLED, IGNORED}


def test_voxels_that_are_not_numbers_are_ignored():
    tomogram, particles = tomogram_of(1)
    tomogram.data[:, :, :4] = np.nan
    config = preset(
        "default", radius_angstrom=40, voxel_size=10, expected=18, overrides=SMALL["default"]
    )
    task = prepare(config, [(tomogram, particles.select(np.arange(8)))])
    assert (task.training[0].labels[:, :, :2] == IGNORED).all()
    assert all(np.isfinite(epoch.measures["loss"]) for epoch in epochs_of(task))


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
        assert task_of("default", **options).radius == RADIUS
        return
    with pytest.raises(InputError, match=message):
        task_of("default", **options)


def test_a_particle_larger_than_the_window_or_the_tomogram_is_refused():
    tomogram, particles = tomogram_of(1)
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
    tomogram, particles = tomogram_of(1)
    other = Tomogram(name="two", data=tomogram.data, voxel_size=12.0)
    config = preset(
        "paper", radius_angstrom=40, voxel_size=10, expected=18, overrides=SMALL["paper"]
    )
    with pytest.raises(InputError, match="two: voxel size 12"):
        prepare(config, [(tomogram, particles), (other, particles)])


def test_the_paper_preset_asks_for_the_expected_number():
    with pytest.raises(InputError, match="--expected N; to estimate it"):
        task_of("paper", expected=None)


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


def test_a_loss_that_is_not_finite_stops_with_a_remedy():
    task = task_of("default", training__learning_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"--set training\.learning_rate="):
        list(fit(task))


def test_weights_that_the_last_step_spoiled_are_no_checkpoint():
    # Beyond single precision; the loss of the only step was computed before it.
    task = task_of("default", training__learning_rate=1e39, sampling__steps_per_epoch=1)
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
    tomogram, particles = tomogram_of(1)
    task = prepare(config, [(tomogram, particles.select(np.arange(8)))])
    first, second = epochs_of(task)
    write_checkpoint(tmp_path / "checkpoint.safetensors", first.checkpoint)
    (resumed,) = epochs_of(task, resume=read_checkpoint(tmp_path / "checkpoint.safetensors"))
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
        tomogram, particles = tomogram_of(1)
        task = prepare(config, [(tomogram, particles.select(np.arange(10)))])  # 8 to train on
        (epoch,) = epochs_of(task)
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
        epochs_of(task_of("paper", training__precision=precision, training__epochs=1))[
            -1
        ].checkpoint
        for precision in ("single", "mixed")
    )
    assert all(torch.equal(single.weights[key], mixed.weights[key]) for key in single.weights)


def test_mixed_precision_learns_as_single_and_keeps_single_weights(monkeypatch):
    """A CPU's bfloat16 stands in for a GPU's."""
    single = epochs_of(task_of("default"))[-1]
    used = []

    def half(device, settings):
        used.append(settings.precision)
        return torch.autocast(device, dtype=torch.bfloat16)

    monkeypatch.setattr("tomopicker.training._autocast", half)
    mixed = epochs_of(task_of("default", training__precision="mixed"))[-1]
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
