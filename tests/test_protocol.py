"""The paper's protocol: EMPIAR's layout, the printed tables, and a whole small benchmark."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from tomopicker.cli.benchmark import app
from tomopicker.errors import InputError
from tomopicker.evaluate import evaluate
from tomopicker.io.particles import read_particles
from tomopicker.io.tomograms import write_volume
from tomopicker.protocol import (
    DATASETS,
    METHODS,
    OVERALL,
    UNSEEN,
    Dataset,
    DatasetName,
    Printed,
    Result,
    compare,
    find_datasets,
    paper_particles,
    paper_rows,
    read_results,
    read_series,
    result_of,
    sample_clicks,
    to_markdown,
    write_results,
)
from tomopicker.types import Particles

VPP, DEFOCUS = DATASETS["vpp"], DATASETS["defocus"]

TINY = np.zeros((4, 5, 6), dtype=np.int8)


def lay_out(
    folder: Path,
    dataset: Dataset,
    *,
    tomogram: str = "tomograms/{}.rec",
    particles: str = "particle_lists/{}_cyto_ribosomes.csv",
    separator: str = ",",
) -> Path:
    """Write a data set as EMPIAR has it, with volumes of a few voxels and one particle each."""
    root = folder / dataset.folder
    for number in dataset.numbers:
        label = dataset.label(number)
        write_volume(root / tomogram.format(label), TINY, voxel_size=13.48)
        path = root / particles.format(label)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(separator.join(("5", "4", "3")) + "\n")
    return root


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_data_set_is_found_where_empiar_has_it_and_its_lists_are_x_y_z(
    tmp_path: Path, separator: str
) -> None:
    root = lay_out(tmp_path, DEFOCUS, separator=separator)

    found = find_datasets(tmp_path)

    assert list(found) == ["defocus"]
    assert [one.number for one in found["defocus"]] == [27, 28, 29, 30, 34, 37, 41, 43, 45]
    first = found["defocus"][0]
    assert first.tomogram == root / "tomograms/TS_027.rec"
    assert first.particles == root / "particle_lists/TS_027_cyto_ribosomes.csv"
    tomogram, particles = read_series(first)
    assert tomogram.shape == (4, 5, 6)
    np.testing.assert_allclose(particles.voxels, [[3, 4, 5]])


def test_every_data_set_that_is_there_is_found_also_below_data(tmp_path: Path) -> None:
    lay_out(tmp_path / "data", DEFOCUS)
    lay_out(tmp_path / "data", VPP)

    assert list(find_datasets(tmp_path)) == ["vpp", "defocus"]
    assert list(find_datasets(tmp_path, names=["vpp"])) == ["vpp"]
    assert list(find_datasets(tmp_path / "data" / "DEF")) == ["defocus"]


@pytest.mark.parametrize("name", ["TS_1", "TS_01", "ts_0001", "TS1"])
def test_names_are_matched_by_number(tmp_path: Path, name: str) -> None:
    root = lay_out(tmp_path, VPP)
    (root / "tomograms/TS_0001.rec").rename(root / f"tomograms/{name}.rec")

    first = find_datasets(tmp_path)["vpp"][0]

    assert first.label == "TS_0001"
    assert first.tomogram.stem == name


def test_what_empiar_has_beside_the_tomograms_and_ribosomes_is_not_taken_for_them(
    tmp_path: Path,
) -> None:
    root = lay_out(tmp_path, DEFOCUS)
    for other in ("labels/TS_029_cyto_ribosomes.mrc", "labels/TS_029.labels.mrc"):
        write_volume(root / other, TINY, voxel_size=13.48)
    (root / "particle_lists/TS_029_fas.csv").write_text("1,2,3\n")

    found = {one.number: one for one in find_datasets(tmp_path)["defocus"]}

    assert found[29].tomogram == root / "tomograms/TS_029.rec"
    assert found[29].particles == root / "particle_lists/TS_029_cyto_ribosomes.csv"


def test_another_layout_is_found_by_the_numbers_in_the_names(tmp_path: Path) -> None:
    root = lay_out(tmp_path, VPP, tomogram="a/b/{}_bin4.mrc", particles="c/{}.coords")
    (root / "c/TS_0001_fas.csv").write_text("1,2,3\n")

    found = find_datasets(tmp_path)["vpp"]

    assert found[0].tomogram == root / "a/b/TS_0001_bin4.mrc"
    assert found[0].particles == root / "c/TS_0001.coords"


def test_globs_say_where_the_files_are(tmp_path: Path) -> None:
    lay_out(tmp_path, VPP, tomogram="x/{}.rec", particles="../lists/{}.tsv")

    (name, series), *others = find_datasets(
        tmp_path, tomograms="VPP/**/*.rec", particles=f"{tmp_path}/lists/*.tsv"
    ).items()

    assert (name, others) == ("vpp", [])
    assert series[9].particles == tmp_path / "lists/TS_0010.tsv"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tomograms/TS_030.rec", r"TS_030: its tomogram .*DEF.*\.rec.*--tomograms GLOB$"),
        ("tomograms/TS_045.rec", r"TS_045: its tomogram .*--skip-missing$"),
        (
            "particle_lists/TS_029_cyto_ribosomes.csv",
            r"TS_029: its particle list .*\.csv.*--particles GLOB$",
        ),
    ],
)
def test_a_missing_file_is_named_with_where_it_was_looked_for(
    tmp_path: Path, missing: str, message: str
) -> None:
    root = lay_out(tmp_path, DEFOCUS)
    (root / missing).unlink()

    with pytest.raises(InputError, match=message):
        find_datasets(tmp_path)


def test_a_missing_file_is_looked_for_where_the_glob_says(tmp_path: Path) -> None:
    lay_out(tmp_path, DEFOCUS)
    with pytest.raises(InputError, match=r"TS_027.*TS_02\[89\]\.rec.*--tomograms GLOB"):
        find_datasets(tmp_path, tomograms="DEF/tomograms/TS_02[89].rec")


def test_tomograms_that_are_not_there_can_be_left_out_but_not_those_of_training(
    tmp_path: Path,
) -> None:
    root = lay_out(tmp_path, DEFOCUS)
    (root / "tomograms/TS_027.rec").unlink()
    (root / "particle_lists/TS_045_cyto_ribosomes.csv").unlink()

    found = find_datasets(tmp_path, skip_missing=True)["defocus"]
    assert [one.number for one in found] == [28, 29, 30, 34, 37, 41, 43]

    (root / "tomograms/TS_029.rec").unlink()
    with pytest.raises(InputError, match="TS_029"):
        find_datasets(tmp_path, skip_missing=True)


def test_two_files_for_one_tomogram_are_refused_with_both_names(tmp_path: Path) -> None:
    root = lay_out(tmp_path, DEFOCUS)
    write_volume(root / "tomograms/TS_28.mrc", TINY, voxel_size=13.48)
    with pytest.raises(InputError, match=r"TS_028: several.*TS_028\.rec.*TS_28\.mrc.*--tomograms"):
        find_datasets(tmp_path)


def test_two_lists_for_one_tomogram_are_refused_with_both_names(tmp_path: Path) -> None:
    root = lay_out(tmp_path, DEFOCUS)
    (root / "particle_lists/TS_028_ribosomes.txt").write_text("1 2 3\n")
    with pytest.raises(InputError, match=r"TS_028: several.*cyto.*TS_028_ribosomes.*--particles"):
        find_datasets(tmp_path)


def test_a_folder_without_a_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither VPP nor DEF"):
        find_datasets(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_datasets(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"TS_0001: its tomogram is missing.*VPP"):
        find_datasets(tmp_path, names=["vpp"])


def test_the_voxel_size_is_taken_where_the_header_has_none_only(tmp_path: Path) -> None:
    root = lay_out(tmp_path, DEFOCUS)
    write_volume(root / "tomograms/TS_027.rec", TINY, voxel_size=0, overwrite=True)
    first, second, *_ = find_datasets(tmp_path)["defocus"]
    assert read_series(first, voxel_size=12.0)[0].voxel_size == 12.0
    assert read_series(second, voxel_size=12.0)[0].voxel_size == 13.48


def test_particles_outside_their_tomogram_are_refused(tmp_path: Path) -> None:
    root = lay_out(tmp_path, DEFOCUS)
    path = root / "particle_lists/TS_027_cyto_ribosomes.csv"
    path.write_text("3,4,5\n")
    with pytest.raises(InputError, match=r"TS_027.*outside.*z,y,x"):
        read_series(find_datasets(tmp_path)["defocus"][0])


def test_clicks_are_particles_of_the_list_without_repetition_and_differ_between_seeds() -> None:
    particles = Particles.from_voxels(np.arange(60).reshape(20, 3), voxel_size=1.0)

    def clicks(seed: int) -> list[list[float]]:
        rng = np.random.default_rng(seed)
        return sample_clicks(particles, 8, rng=rng, source=Path("list")).voxels.tolist()

    assert len({tuple(row) for row in clicks(0)}) == 8
    assert all(row in particles.voxels.tolist() for row in clicks(0))
    assert clicks(0) == clicks(0)
    assert clicks(0) != clicks(1)
    with pytest.raises(InputError, match=r"list: 20 particles.*fewer --picks"):
        sample_clicks(particles, 20, rng=np.random.default_rng(0), source=Path("list"))


HALF_A_DIGIT = 0.005 + 1e-9


def contradictions(row: Printed) -> list[str]:
    """What is wrong with a printed row by itself, within rounding."""
    wrong = []
    particles = paper_particles(row.dataset)[row.tomogram]
    if row.tp is None or row.fn is None:
        return ["no counts"]
    if row.tp + row.fn != particles:
        wrong.append("TP + FN")
    precision = None if row.fp is None else row.tp / (row.tp + row.fp)
    recall = row.tp / (row.tp + row.fn)
    for name, exact, printed in (
        ("precision", precision, row.precision),
        ("recall", recall, row.recall),
    ):
        if exact is not None and printed is not None and abs(exact - printed) > HALF_A_DIGIT:
            wrong.append(name)
    # F1 may have been worked out from the counts or from the rounded precision and recall.
    f1s = []
    if row.fp is not None:
        f1s.append(2 * row.tp / (2 * row.tp + row.fp + row.fn))
    if row.precision is not None and row.recall is not None:
        f1s.append(2 * row.precision * row.recall / (row.precision + row.recall))
    if row.f1 is not None and all(abs(f1 - row.f1) > HALF_A_DIGIT for f1 in f1s):
        wrong.append("F1")
    return wrong


@pytest.mark.parametrize("name", ["vpp", "defocus"])
def test_the_papers_rows_follow_from_their_counts_except_the_marked_ones(name: DatasetName) -> None:
    rows = [row for row in paper_rows(name) if row.tomogram != OVERALL and not row.illegible]
    by_hand = {(row.tomogram, row.method) for row in rows if contradictions(row)}
    assert by_hand == {(row.tomogram, row.method) for row in rows if row.misprint}


@pytest.mark.parametrize("name", ["vpp", "defocus"])
def test_in_an_illegible_row_what_can_be_read_is_sound(name: DatasetName) -> None:
    for row in paper_rows(name):
        if row.illegible and row.tomogram != OVERALL:
            assert None in (row.fp, row.precision, row.recall, row.f1)
            wrong = contradictions(row)
            # CrYOLO on TS_0008: F1 of the rounded ratios is 0.184, which would print as 0.18.
            assert wrong == (["F1"] if row.fp is None else [])


@pytest.mark.parametrize("name", ["vpp", "defocus"])
def test_the_papers_overall_is_the_mean_of_its_rows_except_the_marked_ones(
    name: DatasetName,
) -> None:
    rows = paper_rows(name)
    wrong, marked = set(), set()
    for overall in (row for row in rows if row.tomogram == OVERALL):
        of_method = [r for r in rows if r.method == overall.method and r.tomogram != OVERALL]
        assert len(of_method) == len(DATASETS[name].numbers)
        for ratio in ("precision", "recall", "f1"):
            values = [getattr(row, ratio) for row in of_method]
            printed = getattr(overall, ratio)
            if printed is None or None in values:
                continue
            # The rows are rounded and so is their mean.
            if abs(np.mean(values) - printed) > 2 * HALF_A_DIGIT:
                wrong.add(overall.method)
        if overall.misprint:
            marked.add(overall.method)
    assert wrong == marked


def test_the_papers_particle_counts_add_up_to_its_totals() -> None:
    assert sum(paper_particles("vpp").values()) == 25_311
    assert sum(paper_particles("defocus").values()) == 25_901
    assert sum(n for label, n in paper_particles("defocus").items() if label != "TS_026") == 25_063


def result(**changes: object) -> Result:
    """A row in which 3 of 4 particles are found with 6 picks, 2 of them twice the same."""
    row: dict[str, object] = {
        "dataset": "vpp",
        "method": "kl",
        "seed": 0,
        "tomogram": "TS_0003",
        "cut": "true count",
        "particles": 4,
        "picks": 6,
        "paper_tp": 3,
        "paper_fp": 1,
        "paper_fn": 1,
        "paper_precision": 0.75,
        "paper_recall": 0.75,
        "paper_f1": 0.75,
        "tp": 3,
        "fp": 3,
        "fn": 1,
        "precision": 0.5,
        "recall": 0.75,
        "f1": 0.6,
        "average_precision": 0.5,
        "localisation_error_voxels": 1.5,
        "training_cpu_seconds": 10.0,
        "picking_cpu_seconds": 2.0,
    }
    return Result.model_validate(row | changes)


def test_a_result_holds_both_countings() -> None:
    truth = np.array([[0, 0, 0], [0, 0, 5], [0, 0, 50]])
    picks = np.array([[0, 0, 2], [0, 0, 90]])
    row = result_of(
        evaluate(picks, truth, tolerance=10, scores=np.array([2.0, 1.0])),
        dataset="vpp",
        method="pu",
        seed=1,
        tomogram="TS_0003",
        cut="true count",
        training_cpu_seconds=1.0,
        picking_cpu_seconds=2.0,
    )
    assert (row.particles, row.picks) == (3, 2)
    assert (row.paper_tp, row.paper_fp, row.paper_fn) == (2, 1, 1)
    assert (row.tp, row.fp, row.fn) == (1, 1, 2)
    assert row.localisation_error_voxels == 2.0


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [result(), result(seed=1, localisation_error_voxels=None, method="default")]
    write_results(tmp_path / "results.csv", rows)
    assert read_results(tmp_path / "results.csv") == rows


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_results(path, [result()])
    path.write_text(path.read_text().replace("TS_0003", "TS_0003,TS_0004"))
    with pytest.raises(InputError, match=r"results\.csv: line 2.*--out"):
        read_results(path)


def cells(rows: list[dict[str, str]], tomogram: str, method: str) -> dict[str, str]:
    place = ""
    for row in rows:
        place = row["Tomogram"] or place
        if (place, row["Method"]) == (tomogram, method):
            return row
    raise KeyError((tomogram, method))


def compared(results: list[Result]) -> list[dict[str, str]]:
    table = compare(VPP, results)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_the_table_sets_our_figures_beside_the_papers_and_marks_its_misprints() -> None:
    rows = compared([result(method="pn"), result(method="kl")])

    kl = cells(rows, "TS_0003", METHODS["kl"])
    assert [kl[name] for name in ("Picks", "TP", "FP", "FN", "F1", "F1 1:1", "AP")] == [
        *("6", "3", "1", "1", "0.75", "0.60", "0.50"),
    ]
    assert [kl[name] for name in ("Paper prec.", "rec.", "F1 ")] == ["0.57", "0.48", "0.52"]
    assert cells(rows, "TS_0003", METHODS["pn"])["F1 "] == "0.39*"
    assert cells(rows, "TS_0003", "CrYOLO")["F1"] == "–"
    with pytest.raises(KeyError):
        cells(rows, "TS_0004", METHODS["kl"])


def test_overall_is_the_mean_over_tomograms_and_unseen_leaves_out_training_and_validation() -> None:
    f1s = {"TS_0001": 0.9, "TS_0002": 0.6, "TS_0003": 0.3, "TS_0004": 0.2}
    rows = compared([result(tomogram=name, paper_f1=f1) for name, f1 in f1s.items()])

    assert cells(rows, OVERALL, METHODS["kl"])["F1"] == "0.50"
    assert cells(rows, OVERALL, METHODS["kl"])["F1 "] == "0.45"
    assert cells(rows, UNSEEN, METHODS["kl"])["F1"] == "0.25"
    # The paper prints 0.52 and 0.19 there: (0.52 + 0.19) / 2 = 0.355.
    assert cells(rows, UNSEEN, METHODS["kl"])["F1 "] in ("0.35", "0.36")


def test_several_seeds_are_averaged_with_their_deviation() -> None:
    rows = compared([result(seed=0, paper_f1=0.5), result(seed=1, paper_f1=0.7)])
    assert cells(rows, "TS_0003", METHODS["kl"])["F1"] == "0.60 ±0.14"


def test_default_is_shown_at_the_true_count_and_at_its_own_cut_off() -> None:
    rows = compared(
        [result(method="default"), result(method="default", cut="automatic", paper_f1=0.8)]
    )
    assert cells(rows, "TS_0003", "default, true count")["F1"] == "0.75"
    assert cells(rows, "TS_0003", "default, automatic")["F1"] == "0.80"
    assert cells(rows, "TS_0003", "default, automatic")["F1 "] == "–"


def test_the_notes_name_the_misprints_and_lists_of_another_length() -> None:
    notes = "\n".join(compare(VPP, [result()]).notes)
    assert "TS_0003: its list holds 4 particles, the paper's 2429" in notes
    assert "* misprint, TS_0003 TomoPicker (PN)" in notes
    assert "TS_0010" not in notes


def test_markdown_has_a_cell_for_every_column() -> None:
    text = to_markdown(compare(VPP, [result()]))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {15}


RADIUS = 4


def write_tomogram(root: Path, dataset: Dataset, number: int) -> None:
    """A volume of 24 dark balls on a jittered lattice, and the headerless list of them."""
    rng = np.random.default_rng(number)
    lattice = np.stack(np.meshgrid([6, 17], *2 * [[5, 15, 25, 34]], indexing="ij"), axis=-1)
    zyx = rng.permutation(lattice.reshape(-1, 3))[:24] + rng.integers(-1, 2, size=(24, 3))
    volume = np.zeros((24, 40, 40))
    volume[tuple(zyx.T)] = -300.0
    volume = gaussian_filter(volume, RADIUS / 2) + rng.normal(0, 0.3, volume.shape)
    label = dataset.label(number)
    write_volume(root / f"tomograms/{label}.rec", volume.astype(np.float32), voxel_size=13.48)
    path = root / f"particle_lists/{label}_cyto_ribosomes.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{x},{y},{z}\n" for z, y, x in zyx))


@pytest.fixture
def benchmark(tmp_path: Path) -> Callable[..., str]:
    """Run the command on three small tomograms; gives what it prints."""
    for number in (27, 29, 30):
        write_tomogram(tmp_path / "DEF", DEFOCUS, number)

    def run(*options: str) -> str:
        done = CliRunner().invoke(
            app,
            [
                *("empiar-10988", str(tmp_path), "--out", str(tmp_path / "results")),
                *("--skip-missing", "--picks", "10", "--radius", f"{RADIUS}vx", "--device", "cpu"),
                *("--epochs", "1", "--set", "network.channels=[4,8]"),
                *("--set", "sampling.steps_per_epoch=4", *options),
            ],
            catch_exceptions=False,
        )
        assert done.exit_code == 0, done.output
        return done.output

    return run


@pytest.mark.usefixtures("rough_alignment")
def test_the_benchmark_fills_its_folder_and_a_second_run_does_nothing(
    benchmark: Callable[..., str], tmp_path: Path
) -> None:
    printed = benchmark("--method", "pu", "--method", "default")

    out = tmp_path / "results"
    results = read_results(out / "results.csv")
    assert sorted(row.key for row in results) == sorted(
        ("defocus", method, 0, label, cut)
        for method, cuts in (("pu", ["true count"]), ("default", ["true count", "automatic"]))
        for label in ("TS_027", "TS_029", "TS_030")
        for cut in cuts
    )
    for row in results:
        folder = "picks" if row.cut == "true count" else "picks-automatic"
        picks = read_particles(
            out / "defocus" / row.method / "seed-0" / folder / f"{row.tomogram}.csv", voxel_size=1
        )
        assert len(picks) == row.picks
        if row.cut == "true count":
            assert row.picks <= row.particles == 24
    assert (out / "defocus/pu/seed-0/run/best.safetensors").is_file()
    expected = json.loads((out / "defocus/pu/seed-0/run/config.json").read_text())["expected"]
    assert expected == 24
    config = json.loads((out / "defocus/default/seed-0/run/config.json").read_text())
    assert (config["preset"], config["expected"]) == ("default", None)
    clicks = read_particles(out / "defocus/clicks-seed-0/TS_029.csv", voxel_size=1)
    assert len(clicks) == 10
    assert "Table 2: Defocus" in printed
    assert UNSEEN in (out / "tables.md").read_text()

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    benchmark("--method", "pu", "--method", "default")
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed == {"tables.md"}


def test_an_interrupted_benchmark_goes_on_where_it_stopped(
    benchmark: Callable[..., str], tmp_path: Path
) -> None:
    benchmark("--method", "pu")
    out = tmp_path / "results"
    arm = out / "defocus/pu/seed-0"
    trained = (arm / "run/last.safetensors").stat().st_mtime_ns
    kept, lost = (arm / f"picks/{label}.csv" for label in ("TS_027", "TS_030"))
    text, first = lost.read_text(), kept.stat().st_mtime_ns
    lost.unlink()

    benchmark("--method", "pu")

    assert lost.read_text() == text
    assert kept.stat().st_mtime_ns == first
    assert (arm / "run/last.safetensors").stat().st_mtime_ns == trained
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3

    # As after Ctrl-C within training: the run is resumed, here with nothing left to train.
    (arm / "training.json").write_text('{"done": false, "cpu_seconds": 5.0}')
    lost.unlink()
    benchmark("--method", "pu")
    assert lost.read_text() == text
    assert (arm / "run/last.safetensors").stat().st_mtime_ns == trained
    assert json.loads((arm / "training.json").read_text())["cpu_seconds"] > 5


def test_a_folder_of_other_results_or_other_things_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, DEFOCUS)
    out = tmp_path / "results"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")

    def run(*options: str) -> None:
        CliRunner().invoke(
            app,
            ["empiar-10988", str(tmp_path), "--out", str(out), *options],
            catch_exceptions=False,
        )

    with pytest.raises(InputError, match="no folder of results"):
        run()
    (out / "thesis.txt").unlink()
    # One particle in each list: nothing can be drawn from it, but the settings are written.
    with pytest.raises(InputError, match="fewer --picks"):
        run()
    with pytest.raises(InputError, match="--picks 100, now it is 50"):
        run("--picks", "50")
