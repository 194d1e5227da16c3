"""The workbench keeps what it is told, answers nobody else, and says what is wrong."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from conftest import Command
from described import record_of
from tomopicker.errors import InputError
from tomopicker.io.particles import read_particles
from tomopicker.io.record import Origin, RecordedCut, record_path, write_record
from tomopicker.io.tomograms import find_tomograms, read_tomogram, write_volume
from tomopicker.serve import rounds, slices
from tomopicker.serve.app import STATIC, make_app
from tomopicker.serve.exports import final_list, writable_formats
from tomopicker.serve.journal import Journal, read_journal
from tomopicker.serve.notes import Add, Delete, Entry, Judge, Move, Notes, Shown
from tomopicker.serve.proposals import bin_tomogram, learn, propose
from tomopicker.serve.rounds import explain
from tomopicker.serve.session import Session, read_verdicts
from tomopicker.serve.slices import Look, NotYetError, Slices
from tomopicker.serve.workbench import Workbench
from tomopicker.types import Tomogram
from tomopicker.verdicts import Candidate

TOKEN = "a-token-of-the-tests"
PAGE = f"http://127.0.0.1:8765/{TOKEN}/"
WAIT = 60.0


@pytest.fixture
def workbench(simulated: Path, tmp_path: Path):
    session = Session.open(tmp_path / "session", [simulated])
    made = Workbench(session)
    yield made
    made.close()


@pytest.fixture
def page(workbench: Workbench):
    with TestClient(make_app(workbench, token=TOKEN), base_url=PAGE) as client:
        yield client


@pytest.fixture
def commands(workbench: Workbench, monkeypatch: pytest.MonkeyPatch):
    """Commands of the processes that rounds would start."""
    started = []
    monkeypatch.setattr(
        workbench.rounds, "_start", lambda kind, used, command, targets=(): started.append(command)
    )
    return started


def act(page: TestClient, **action):
    return page.post("api/act", json=action)


def add(page: TestClient, *places, tomogram="sim_0001"):
    return act(page, do="add", tomogram=tomogram, at=places)


def truth_of(simulated: Path, name="sim_0001"):
    return read_particles(simulated / f"{name}.csv", voxel_size=13.5).voxels


def until(done, *, seconds=WAIT):
    """Wait for something; the time is only there so that a fault does not hang the tests."""
    for _ in range(int(seconds / 0.05)):
        result = done()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError("it never came")


# ------------------------------------------------------------------ who may talk to it


def test_the_page_and_all_its_parts_come_by_the_token(page: TestClient):
    whole = page.get("")
    assert whole.status_code == 200
    assert "TomoPicker" in whole.text
    for name in STATIC:
        assert page.get(f"static/{name}").status_code == 200, name
    parts = re.findall(r'(?:src|href)="static/([^"]+)"', whole.text)
    imported = [
        part
        for name in STATIC
        if name.endswith(".js")
        for part in re.findall(r'from "\./([^"]+)"', page.get(f"static/{name}").text)
    ]
    assert {*parts, *imported} <= set(STATIC)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8765/",
        "http://127.0.0.1:8765/api/session",
        "http://127.0.0.1:8765/static/main.js",
        f"http://127.0.0.1:8765/{TOKEN}x/",
        f"http://127.0.0.1:8765/{TOKEN[:-1]}/",
        f"http://127.0.0.1:8765/api/session?token={TOKEN}",
        f"http://127.0.0.1:8765//{TOKEN}/",
    ],
)
def test_nothing_comes_without_the_token(page: TestClient, address: str):
    answer = page.get(address)
    assert answer.status_code == 403
    assert "with its token" in answer.json()["error"]


def test_the_slash_at_the_end_is_asked_for(page: TestClient):
    answer = page.get(f"http://127.0.0.1:8765/{TOKEN}")
    assert (answer.status_code, "slash" in answer.json()["error"]) == (404, True)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.1.5", "", "["]
)
def test_another_host_name_is_refused_although_the_token_is_right(page: TestClient, host: str):
    answer = page.get("api/session", headers={"host": host})
    assert answer.status_code == 421


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "[::1]:8765", "LOCALHOST"])
def test_the_end_of_a_tunnel_may_have_another_port(page: TestClient, host: str):
    assert page.get("api/session", headers={"host": host}).status_code == 200


def test_another_page_may_not_use_it(page: TestClient):
    answer = page.get("api/session", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    same = page.get("api/session", headers={"origin": "http://localhost:8765"})
    assert same.status_code == 200


@pytest.mark.parametrize("path", ["", "static/main.js", "api/session", "static/nothing.js"])
def test_the_browser_is_told_to_load_and_send_nothing_elsewhere(page: TestClient, path: str):
    headers = page.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_no_part_of_the_page_names_another_server(page: TestClient):
    for name in ("", *(f"static/{one}" for one in STATIC)):
        text = page.get(name).text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z]+\.[a-z]", text), name


@pytest.mark.parametrize(
    "path",
    [
        "static/..%2f..%2fapp.py",
        "static/%2e%2e/app.py",
        "static/../app.py",
        "exports/../session.json",
        "exports/..%2fsession.json",
        "exports/%2e%2e/%2e%2e/etc/passwd",
        "exports//etc/passwd",
        "exports/../journal.jsonl",
        "static/main.js%00.css",
    ],
)
def test_no_path_leads_out_of_what_is_served(page: TestClient, path: str):
    add(page, [10, 10, 10])
    page.post("api/exports", json={"format": "csv", "tomograms": [0]})
    answer = page.get(PAGE + path)
    assert answer.status_code in (403, 404)
    assert "root:" not in answer.text


def test_a_link_among_the_exports_is_not_followed(
    page: TestClient, workbench: Workbench, tmp_path: Path
):
    secret = tmp_path / "secret.csv"
    secret.write_text("secret")
    folder = workbench.session.folder / "exports"
    folder.mkdir()
    (folder / "link.csv").symlink_to(secret)
    assert page.get("exports/link.csv").status_code == 404


def test_what_is_too_large_or_no_json_is_refused(page: TestClient):
    assert page.post("api/act", content=b"x" * (5 << 20)).status_code == 413
    assert page.post("api/act", content=b"{}").status_code == 415
    chunks = page.post(
        "api/act", content=iter([b"{}"]), headers={"content-type": "application/json"}
    )
    assert chunks.status_code == 411


# ------------------------------------------------------------------ what it is told


def test_a_particle_is_put_moved_deleted_and_every_step_taken_back(page: TestClient):
    def places():
        return [one["at"] for one in page.get("api/tomograms/0").json()["particles"]]

    number = add(page, [1, 2, 3]).json()["number"]
    act(page, do="move", tomogram="sim_0001", particle=number, at=[4, 5, 6])
    act(page, do="delete", tomogram="sim_0001", particles=[number])
    assert places() == []
    act(page, do="undo")
    assert places() == [[4, 5, 6]]
    act(page, do="undo")
    assert places() == [[1, 2, 3]]
    act(page, do="redo")
    assert places() == [[4, 5, 6]]
    act(page, do="undo")
    act(page, do="undo")
    assert places() == []
    assert "nothing to undo" in act(page, do="undo").json()["error"]


def test_an_accepted_candidate_is_a_particle_until_its_verdict_is_undone(page: TestClient):
    shown = [{"at": [5, 5, 5], "score": 2.5, "probability": 0.5, "model": "round 1"}]
    act(page, do="judge", tomogram="sim_0001", answer="accept", order="teach", shown=shown)
    (particle,) = page.get("api/tomograms/0").json()["particles"]
    assert (particle["at"], particle["from"]) == ([5, 5, 5], "verdict")
    # Another word on the same candidate replaces the first.
    act(page, do="judge", tomogram="sim_0001", answer="reject", order="teach", shown=shown)
    told = page.get("api/tomograms/0").json()
    assert (told["particles"], told["rejected"]) == ([], [[5, 5, 5]])
    act(page, do="undo")
    assert len(page.get("api/tomograms/0").json()["particles"]) == 1
    # Deleting the particle takes the verdict back.
    number = page.get("api/tomograms/0").json()["particles"][0]["number"]
    act(page, do="delete", tomogram="sim_0001", particles=[number])
    counted = (
        page.post("api/diameter", json={"diameter": 120}),
        page.get("api/tomograms/0/review?order=best"),
    )
    assert counted[1].json()["counts"]["accept"] == 0


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"do": "add", "tomogram": "sim_0001", "at": [[1, 2, 99]]}, "x = 99 is outside"),
        ({"do": "add", "tomogram": "sim_0001", "at": [[-1, 2, 3]]}, "z = -1 is outside"),
        ({"do": "add", "tomogram": "../../etc", "at": [[1, 2, 3]]}, "no tomogram called"),
        ({"do": "add", "tomogram": "sim_0001", "at": []}, "at"),
        ({"do": "add", "tomogram": "sim_0001", "at": [["a", 2, 3]]}, "at"),
        ({"do": "move", "tomogram": "sim_0001", "particle": 7, "at": [1, 2, 3]}, "reload"),
        ({"do": "delete", "tomogram": "sim_0001", "particles": [7]}, "reload"),
        ({"do": "explode"}, "explode"),
        ({"do": "add", "tomogram": "sim_0001", "at": [[1, 2, 3]], "surplus": 1}, "surplus"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words_and_changes_nothing(
    page: TestClient, workbench: Workbench, action: dict[str, object], message: str
):
    answer = page.post("api/act", json=action)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert read_journal(workbench.session.folder / "journal.jsonl") == []


def test_a_number_that_is_none_is_refused(page: TestClient):
    body = '{"do": "add", "tomogram": "sim_0001", "at": [[NaN, 2, 3]]}'
    answer = page.post("api/act", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "query",
    ["axis=w&at=3", "axis=z&at=32", "axis=z&at=-1", "axis=z", "axis=z&at=1&contrast=nan",
     "axis=z&at=1&thickness=0", "axis=x&at=64", "axis=z&at=1e3"],
)  # fmt: skip
def test_a_slice_that_is_not_there_is_told(page: TestClient, query: str):
    answer = page.get(f"api/tomograms/0/slice?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_tomogram_that_is_not_there_is_told(page: TestClient):
    assert "no tomogram 7" in page.get("api/tomograms/7").json()["error"]
    assert page.get("api/tomograms/x").status_code == 404


def test_a_diameter_must_be_one(page: TestClient):
    for wrong in (0, -3, "wide", None, 1e9):
        assert page.post("api/diameter", json={"diameter": wrong}).status_code == 400
    assert page.post("api/diameter", json={"diameter": 120}).status_code == 200
    assert page.get("api/session").json()["diameter"] == 120


def test_a_fault_of_ours_is_told_as_one(workbench: Workbench, monkeypatch: pytest.MonkeyPatch):
    def broken():
        raise ZeroDivisionError

    monkeypatch.setattr(workbench, "describe", broken)
    app = make_app(workbench, token=TOKEN)
    with TestClient(app, base_url=PAGE, raise_server_exceptions=False) as page:
        answer = page.get("api/session")
    assert answer.status_code == 500
    assert "fault in TomoPicker" in answer.json()["error"]
    assert "content-security-policy" in answer.headers


# ------------------------------------------------------------------ nothing is lost


def test_a_session_reopens_as_it_was_left_undo_included(simulated: Path, tmp_path: Path):
    session = Session.open(tmp_path / "session", [simulated / "sim_0001.mrc"])
    session.act(Add(tomogram="sim_0001", at=((1, 2, 3), (4, 5, 6))))
    session.act(Move(tomogram="sim_0001", particle=2, at=(7, 8, 9)))
    session.act("undo")
    session.set_diameter(120)
    session.close()
    again = Session.open(tmp_path / "session")
    assert again.voxels("sim_0001").tolist() == [[1, 2, 3], [4, 5, 6]]
    assert again.settings.diameter == 120
    again.act("redo")
    assert again.voxels("sim_0001").tolist() == [[1, 2, 3], [7, 8, 9]]
    # A number is never given twice, whatever was taken back.
    again.act(Add(tomogram="sim_0001", at=((1, 1, 1),)))
    assert [one.number for one in again.notes.of("sim_0001")] == [1, 2, 3]
    again.close()
    table = read_particles(tmp_path / "session" / "particles" / "sim_0001.csv", voxel_size=13.5)
    np.testing.assert_allclose(table.voxels, [[1, 2, 3], [7, 8, 9], [1, 1, 1]], atol=1e-4)


def test_a_journal_that_a_crash_cut_off_loses_only_what_was_never_confirmed(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    journal, _ = Journal.open(path)
    journal.append({"a": 1})
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"b": ')
    journal, entries = Journal.open(path)
    journal.append({"c": 3})
    journal.close()
    assert entries == [{"a": 1}]
    assert read_journal(path) == [{"a": 1}, {"c": 3}]


@given(st.binary(max_size=80))
def test_any_tail_is_either_removed_or_told(tail: bytes):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        path.write_bytes(b'{"a": 1}\n' + tail)
        try:
            journal, entries = Journal.open(path)
        except InputError:
            assert b"\n" in tail
            return
        journal.append({"b": 2})
        journal.close()
        assert read_journal(path) == [*entries, {"b": 2}]
        assert entries[0] == {"a": 1}


def test_a_damaged_line_is_named(tmp_path: Path):
    (tmp_path / "journal.jsonl").write_text('{"a": 1}\nnonsense\n{"b": 2}\n')
    with pytest.raises(InputError, match="line 2 is damaged"):
        Journal.open(tmp_path / "journal.jsonl")


ACTIONS = st.one_of(
    st.builds(lambda at: ("add", at), st.tuples(*(st.integers(0, 9),) * 3)),
    st.builds(lambda n: ("move", n), st.integers(0, 5)),
    st.builds(lambda n: ("delete", n), st.integers(0, 5)),
    st.sampled_from([("accept", 0), ("reject", 0), ("accept", 1), ("skip", 1)]),
    st.sampled_from([("undo", 0), ("redo", 0)]),
)


@given(st.lists(ACTIONS, max_size=30))
def test_undoing_all_leaves_nothing_and_redoing_all_brings_it_back(steps):
    notes = Notes()

    def do(what):
        entry = Entry(what=what, who="ada", when="now", first=notes.next_number)
        notes.check(entry)
        notes.apply(entry)

    for kind, detail in steps:
        numbers = sorted(notes.particles)
        if kind == "add":
            do(Add(tomogram="TS", at=(detail,)))
        elif kind in ("accept", "reject", "skip"):
            shown = (Shown(at=(detail, 0, 0), score=1.0),)
            do(Judge(tomogram="TS", answer=kind, order="teach", shown=shown))
        elif kind in ("undo", "redo"):
            if notes.can_undo if kind == "undo" else notes.can_redo:
                do(kind)
        elif numbers and kind == "move":
            do(Move(tomogram="TS", particle=numbers[detail % len(numbers)], at=(1, 1, 1)))
        elif numbers:
            do(Delete(tomogram="TS", particles=(numbers[detail % len(numbers)],)))
    before = (dict(notes.particles), notes.verdicts)
    undone = 0
    while notes.can_undo:
        do("undo")
        undone += 1
    assert (notes.particles, notes.verdicts) == ({}, ())
    for _ in range(undone):
        do("redo")
    assert (notes.particles, notes.verdicts) == before


def test_a_server_that_is_killed_loses_no_click(
    simulated: Path, tmp_path: Path, environment: dict[str, str]
):
    @contextlib.contextmanager
    def server():
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "tomopicker", "serve", tmp_path / "session"),
                *("--tomograms", simulated / "sim_0001.mrc", "--port", "0"),
            ],
            env=environment | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            found = (re.search(r"http://127\.0\.0\.1:\d+/\S+", line) for line in lines)
            try:
                yield process, next(address.group() for address in found if address)
            finally:
                process.kill()

    def ask(address, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return json.load(answer)

    with server() as (process, address):
        for at in ([1, 2, 3], [4, 5, 6], [7, 8, 9]):
            ask(address + "api/act", {"do": "add", "tomogram": "sim_0001", "at": [at]})
        process.send_signal(signal.SIGKILL)
    with server() as (process, address):
        told = ask(address + "api/tomograms/0")
        # Ctrl-C in the terminal ends it in order.
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT) in (0, 130, -signal.SIGINT)
    assert [one["at"] for one in told["particles"]] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_a_click_that_cannot_be_saved_is_told_and_not_shown(
    page: TestClient, workbench: Workbench, monkeypatch: pytest.MonkeyPatch
):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tomopicker.serve.journal.os.fsync", full)
    answer = add(page, [1, 2, 3])
    assert answer.status_code == 400
    assert "could not be saved (No space left on device)" in answer.json()["error"]
    monkeypatch.undo()
    assert page.get("api/tomograms/0").json()["particles"] == []
    assert read_journal(workbench.session.folder / "journal.jsonl") == []


def test_a_folder_is_open_once(workbench: Workbench):
    with pytest.raises(InputError, match="open in another"):
        Session.open(workbench.session.folder)


def test_a_folder_that_holds_something_else_is_refused(simulated: Path, tmp_path: Path):
    with pytest.raises(InputError, match="neither empty nor a session"):
        Session.open(simulated)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        Session.open(tmp_path / "file")
    with pytest.raises(InputError, match="--tomograms"):
        Session.open(tmp_path / "new")
    # Which does not spoil the folder.
    Session.open(tmp_path / "new", [simulated]).close()
    with pytest.raises(InputError, match="no file is named so"):
        Session.open(tmp_path / "other", [tmp_path / "*.mrc"])


def test_a_session_opens_what_a_project_lists_and_finds_it_again(tmp_path: Path):
    data = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    (tmp_path / "rec").mkdir()
    # Its header does not tell the voxel size: the list does.
    write_volume(tmp_path / "rec" / "rec_TS_01.mrc", data, voxel_size=1.0)
    listed = tmp_path / "tomograms.star"
    listed.write_text(
        "data_global\nloop_\n_rlnTomoName\n_rlnTomoTiltSeriesPixelSize\n"
        "_rlnTomoTomogramBinning\n_rlnTomoReconstructedTomogram\n"
        "TS_01 2.5 4 rec/rec_TS_01.mrc\n"
    )
    for places in ([listed], []):
        session = Session.open(tmp_path / "session", places)
        (source,) = session.settings.tomograms
        assert (source.name, source.voxel_size) == ("rec_TS_01", 10)
        assert session.tomogram(0).voxel_size == 10
        session.close()


def test_half_maps_are_shown_and_handed_on_as_their_mean(tmp_path: Path):
    rng = np.random.default_rng(0)
    halves = rng.normal(size=(2, 12, 16, 20)).astype(np.float32)
    for name, half in zip(("one half", "other"), halves, strict=True):
        write_volume(tmp_path / f"{name}.mrc", half, voxel_size=10.0)
    listed = tmp_path / "tomograms.star"
    listed.write_text(
        "data_global\nloop_\n_rlnTomoName\n_rlnTomoReconstructedTomogramHalf1\n"
        "_rlnTomoReconstructedTomogramHalf2\nTS_01 'one half.mrc' other.mrc\n"
    )
    session = Session.open(tmp_path / "session", [listed])
    session.close()
    # The folder may be copied; its tomograms stay where they are.
    (tmp_path / "session").rename(tmp_path / "moved")
    session = Session.open(tmp_path / "moved")
    tomogram = session.tomogram(0)
    assert (tomogram.name, tomogram.voxel_size) == ("TS_01", 10)
    assert np.allclose(tomogram.data[3], halves[:, 3].mean(axis=0))
    for axis in ("z", "y", "x"):
        assert Slices(tomogram).picture(axis, 4, Look())
    # The commands find the same in what they are given.
    (source,) = find_tomograms([session.place(0)])
    assert source.name == "TS_01"
    assert np.allclose(np.asarray(source.open().data), halves.mean(axis=0))
    session.close()


def test_a_session_opens_zarr(tmp_path: Path):
    zarr = pytest.importorskip("zarr", reason="the extra zarr is not installed")
    data = np.random.default_rng(0).normal(size=(12, 16, 20)).astype(np.float32)
    zarr.save_array(str(tmp_path / "TS_01.zarr"), data)
    session = Session.open(tmp_path / "session", [tmp_path / "TS_01.zarr"], voxel_size=10)
    session.act(Add(tomogram="TS_01", at=((1, 2, 3),)))
    pictures = Slices(session.tomogram(0))
    for axis in "zyx":
        with Image.open(io.BytesIO(pictures.picture(axis, 5, Look()))) as picture:
            assert min(picture.size) >= 12
    pictures.close()
    session.close()


def test_two_tomograms_of_one_name_are_refused(simulated: Path, tmp_path: Path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "sim_0001.mrc").symlink_to(simulated / "sim_0001.mrc")
    with pytest.raises(InputError, match="two tomograms are called sim_0001"):
        Session.open(tmp_path / "new", [simulated, tmp_path / "copy"])


def test_a_tomogram_that_is_gone_is_told_and_its_clicks_are_kept(simulated: Path, tmp_path: Path):
    copy = tmp_path / "TS_01.mrc"
    copy.write_bytes((simulated / "sim_0001.mrc").read_bytes())
    session = Session.open(tmp_path / "session", [copy])
    session.act(Add(tomogram="TS_01", at=((1, 2, 3),)))
    session.close()
    copy.unlink()
    again = Session.open(tmp_path / "session")
    assert again.voxels("TS_01").tolist() == [[1, 2, 3]]
    with pytest.raises(InputError, match="no such file"):
        again.tomogram(0)
    again.close()


# ------------------------------------------------------------------ slices


@pytest.fixture(scope="module")
def ramp() -> Tomogram:
    """A volume whose value is 10000 z + 100 y + x."""
    z, y, x = np.meshgrid(np.arange(20), np.arange(30), np.arange(40), indexing="ij")
    data = (10000 * z + 100 * y + x).astype(np.float32)
    return Tomogram(name="ramp", data=data, voxel_size=10.0)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("thickness", [1, 3, 4])
@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_a_slice_is_the_mean_of_its_neighbours(
    ramp: Tomogram, axis: str, thickness: int, large: bool, monkeypatch: pytest.MonkeyPatch
):
    if large:
        monkeypatch.setattr(slices, "_SMALL", 0)
    shown = Slices(ramp)
    look = Look(thickness=thickness)

    def plane():
        try:
            return shown._plane(axis, 10, look)
        except NotYetError:
            return None

    (got,) = until(lambda: None if (one := plane()) is None else [one])
    index = "zyx".index(axis)
    start = 10 - (thickness - 1) // 2
    expected = ramp.data.take(range(start, start + thickness), index).mean(axis=index)
    expected = expected.T if axis == "x" else expected
    assert got.shape == expected.shape
    # The copy for slices along x holds 255 steps of twice the range.
    step = 2.1 * np.ptp(ramp.data) / 255 if large and axis == "x" else 1.0
    assert np.abs(got - expected).max() <= step


def test_slices_at_the_faces_average_what_is_there(ramp: Tomogram):
    shown = Slices(ramp)
    np.testing.assert_allclose(
        shown._plane("z", 19, Look(thickness=5)), ramp.data[17:20].mean(axis=0)
    )
    assert shown._plane("x", 0, Look(thickness=100)).shape == (30, 20)


def test_a_picture_has_the_size_of_the_slice_and_follows_contrast(page: TestClient):
    def grey(query):
        content = page.get(f"api/tomograms/0/slice?axis=y&at=9&{query}").content
        return np.asarray(Image.open(io.BytesIO(content)), dtype=float)

    plain = grey("")
    assert plain.shape == (32, 64)
    assert grey("contrast=4").std() > plain.std() > grey("contrast=0.25").std()
    assert grey("brightness=0.3").mean() > plain.mean() > grey("brightness=-0.3").mean()
    assert grey("thickness=9&smoothing=2").shape == (32, 64)


def test_voxels_that_are_no_numbers_do_not_spoil_the_picture(tmp_path: Path):
    data = np.random.default_rng(0).normal(size=(16, 32, 32)).astype(np.float32)
    data[:, :8] = np.nan
    write_volume(tmp_path / "hole.mrc", data, voxel_size=10.0)
    shown = Slices(read_tomogram(tmp_path / "hole.mrc"))
    content = shown.picture("z", 8, Look(thickness=3))
    grey = np.asarray(Image.open(io.BytesIO(content)), dtype=float)
    assert grey[10:].std() > 20


# ------------------------------------------------------------------ proposals


def test_five_clicks_find_the_rest():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid([10, 30], [12, 36, 60], [12, 36, 60, 84], indexing="ij"), axis=-1)
    truth = (grid.reshape(-1, 3) + rng.uniform(-3, 3, (24, 3))).round(1)
    data = rng.normal(size=(40, 72, 96)).astype(np.float32)
    z, y, x = np.indices(data.shape)
    for centre in truth:
        data -= ((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= 25) * 1.5
    tomogram = Tomogram(name="planted", data=data, voxel_size=10.0)
    binned = bin_tomogram(tomogram, 50.0)
    clicks = truth[::5]
    rest = np.delete(truth, np.s_[::5], axis=0)
    radial = learn(binned, clicks, 50.0)
    found = propose(binned, radial, radius=50.0, clicks=clicks, known=clicks)
    apart = np.linalg.norm(rest[:, None] - found.voxels[None, : len(rest)], axis=2)
    assert apart.min(axis=1).max() < 2
    # What is known is not proposed again.
    assert np.linalg.norm(clicks[:, None] - found.voxels[None], axis=2).min() > 3


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_particle_keeps_its_place_when_voxels_are_binned(factor: int):
    data = np.zeros((36, 36, 36), dtype=np.float32)
    data[12:18, 18:24, 6:12] = 1.0
    tomogram = Tomogram(name="cube", data=data, voxel_size=10.0)
    binned = bin_tomogram(tomogram, 40.0 * factor)
    assert binned.factor == factor
    coarse = np.argwhere(binned.tomogram.data > 0.5).mean(axis=0)
    np.testing.assert_allclose(binned.from_binned(coarse[None]), [[14.5, 20.5, 8.5]])
    np.testing.assert_allclose(binned.to_binned(binned.from_binned(coarse[None])), coarse[None])


def test_four_clicks_are_too_few(page: TestClient, simulated: Path):
    page.post("api/diameter", json={"diameter": 120})
    add(page, *truth_of(simulated)[:4].tolist())
    assert "there are 4" in page.post("api/tomograms/0/propose", json={}).json()["error"]


def test_proposals_come_in_the_background_and_are_judged(page: TestClient, simulated: Path):
    page.post("api/diameter", json={"diameter": 120})
    add(page, *truth_of(simulated)[:6].tolist())
    assert page.post("api/tomograms/0/propose", json={}).status_code == 200

    def proposals():
        told = page.get("api/tomograms/0").json()["proposals"]
        return told if told["state"] == "idle" and told["at"] else None

    told = until(proposals)
    assert told["clicks"] == 6
    assert 0 < told["suggested"] <= len(told["at"])
    first, second = told["at"][:2]
    act(page, do="judge", tomogram="sim_0001", answer="accept", order="best", shown=[first])
    act(page, do="judge", tomogram="sim_0001", answer="reject", order="best", shown=[second])
    now = page.get("api/tomograms/0").json()
    assert first not in now["proposals"]["at"]
    assert second not in now["proposals"]["at"]
    assert len(now["particles"]) == 7
    # Another tomogram is served from the clicks of this one.
    page.post("api/tomograms/1/propose", json={})
    other = until(lambda: (told := page.get("api/tomograms/1").json()["proposals"])["at"] and told)
    assert other["clicks"] == 7


def test_proposals_that_fail_say_why(page: TestClient):
    page.post("api/diameter", json={"diameter": 5000})
    add(page, *([10, 10, 10 + i] for i in range(5)))
    page.post("api/tomograms/0/propose", json={})
    told = until(
        lambda: (
            (told := page.get("api/tomograms/0").json()["proposals"])["state"] != "busy" and told
        )
    )
    assert told["state"] in ("failed", "idle")
    assert told["why"] or told["at"] == []


# ------------------------------------------------------------------ rounds


def test_a_run_is_adopted_picks_and_is_reviewed(
    page: TestClient, workbench: Workbench, trained: Path
):
    page.post("api/diameter", json={"diameter": 120})
    workbench.rounds.adopt(trained)
    assert workbench.rounds.adopt(trained).number == 1
    page.post("api/job", json={"do": "pick", "round": 1, "tomograms": [0], "count": 12})
    told = until(
        lambda: (job := page.get("api/session").json()["job"])["state"] != "running" and job
    )
    assert told["state"] == "done", told["log"]
    assert page.get("api/session").json()["rounds"][0]["picked"] == ["sim_0001"]
    review = page.get("api/tomograms/0/review?round=1&order=random").json()
    assert review["picked"] == 12
    assert len(review["queue"]) == 12
    model = review["queue"][0]["model"]
    assert re.fullmatch(r"round 1 \([0-9a-f]{12}\)", model)
    for answer, one in zip(["accept", "accept", "reject", "skip"], review["queue"], strict=False):
        act(page, do="judge", tomogram="sim_0001", answer=answer, order="random", shown=[one])
    after = page.get("api/tomograms/0/review?round=1&order=random").json()
    assert after["counts"] == {"accept": 2, "reject": 1, "skip": 1}
    assert after["left"] == 9
    assert after["queue"][-1]["at"] == review["queue"][3]["at"]
    # What was said is told of all, but a list of so many stays one of so many.
    assert after["queue"][-1]["probability"] != review["queue"][3]["probability"]
    assert after["picked"] == 12
    assert after["sample"]["count"] == 3
    assert after["sample"]["share"] == pytest.approx(2 / 3)

    with (workbench.session.folder / "verdicts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["verdict"] for row in rows] == ["accept", "accept", "reject", "skip"]
    assert {row["model"] for row in rows} == {model}
    assert {row["order"] for row in rows} == {"random"}
    assert all(row["who"] and row["when"] for row in rows)

    done = page.post("api/exports", json={"format": "coords", "tomograms": [0, 1], "round": 1})
    (file,) = done.json()["files"]
    # Twelve picks, less the one that was rejected.
    assert file["count"] == 11
    assert len(page.get(f"exports/{file['name']}").text.splitlines()) == 11


def test_a_training_that_cannot_be_is_told_in_plain_words(page: TestClient):
    assert (
        "no particles"
        in (
            page.post("api/diameter", json={"diameter": 120}),
            page.post("api/job", json={"do": "train"}),
        )[1].json()["error"]
    )
    add(page, *([10, 10, 10 + 9 * i] for i in range(4)))
    page.post("api/job", json={"do": "train", "settings": ["training.batsch=4"]})
    told = until(
        lambda: (job := page.get("api/session").json()["job"])["state"] != "running" and job
    )
    assert told["state"] == "failed"
    assert "batsch" in told["message"]
    assert "Traceback" not in told["message"]
    assert (
        page.post("api/job", json={"do": "pick", "round": 1, "tomograms": [0]}).json()["error"]
        == "round 1 has no model yet; train first"
    )
    assert (
        "no round 9"
        in page.post("api/job", json={"do": "pick", "round": 9, "tomograms": [0]}).json()["error"]
    )


def test_a_training_is_cancelled_and_what_it_learned_from_stays(
    page: TestClient, workbench: Workbench, simulated: Path
):
    page.post("api/diameter", json={"diameter": 120})
    add(page, *truth_of(simulated).tolist())
    shown = [{"at": [2, 2, 2], "score": 1.0}]
    act(page, do="judge", tomogram="sim_0001", answer="reject", order="teach", shown=shown)
    page.post("api/job", json={"do": "train", "epochs": 5000})
    busy = page.post("api/job", json={"do": "train"})
    assert "training is at work" in busy.json()["error"]
    assert page.delete("api/job").status_code == 200
    told = until(
        lambda: (job := page.get("api/session").json()["job"])["state"] != "running" and job
    )
    assert told["state"] == "cancelled"
    assert "nothing is running" in page.delete("api/job").json()["error"]
    folder = workbench.session.folder / "rounds" / "01"
    assert len(read_particles(folder / "particles.csv", voxel_size=13.5)) == 24
    assert len(read_particles(folder / "rejected.csv", voxel_size=13.5)) == 1


def test_the_review_goes_through_all_tomograms_of_a_round_or_keeps_to_one(
    page: TestClient, workbench: Workbench, monkeypatch: pytest.MonkeyPatch
):
    workbench.session.set_diameter(120)
    names = ("sim_0001", "sim_0002")
    found = {
        name: [
            Candidate(tomogram=name, voxel=(9.0, 9.0, 20.0 * n), score=p, probability=p, model="m")
            for n, p in enumerate(chances)
        ]
        for name, chances in zip(names, ((0.99, 0.6), (0.5, 0.9)), strict=True)
    }
    monkeypatch.setattr(workbench.rounds, "candidates", lambda _, name: found[name])
    across = page.get("api/tomograms/0/review?round=1").json()
    assert [one["probability"] for one in across["queue"]] == [0.5, 0.6, 0.9, 0.99]
    assert across["tomograms"] == [1, 0, 1, 0]
    # The circles are those of the tomogram that is shown.
    assert [one["probability"] for one in across["picks"]] == [0.99, 0.6]
    here = page.get("api/tomograms/0/review?round=1&only_here=true").json()
    assert here["tomograms"] == [0, 0]
    act(
        page,
        do="judge",
        tomogram="sim_0002",
        answer="reject",
        order="random",
        shown=across["queue"][:1],
    )
    after = page.get("api/tomograms/0/review?round=1&order=random").json()
    assert (after["left"], after["counts"]["reject"], after["sample"]["count"]) == (3, 1, 1)
    here = page.get("api/tomograms/0/review?round=1&only_here=true").json()
    assert (here["left"], here["counts"]["reject"]) == (2, 0)


def test_rejected_candidates_are_handed_to_training(
    page: TestClient, workbench: Workbench, commands: list[list[str]]
):
    workbench.session.set_diameter(120)
    add(page, [10, 10, 10])
    for rejects in (False, True):
        if rejects:
            shown = [{"at": [2, 2, 2], "score": 1.0}]
            act(page, do="judge", tomogram="sim_0001", answer="reject", order="teach", shown=shown)
        workbench.rounds.train(rounds.TrainWish(settings=("--out=elsewhere",)))
        assert ("--negatives" in commands[-1]) == rejects
        # A setting cannot become another option.
        assert "--set=--out=elsewhere" in commands[-1]
    assert "--radius=60A" in commands[-1]
    # To go on is the same command, which is resumed once there is something to resume.
    first = commands[-1]
    workbench.rounds.train(rounds.TrainWish(resume=2))
    assert commands[-1] == first
    run = workbench.rounds.get(2).run
    run.mkdir()
    (run / "config.json").touch()
    workbench.rounds.train(rounds.TrainWish(resume=2))
    assert commands[-1] == [*first, "--resume"]


def test_accepted_candidates_are_named_to_training_as_such(
    page: TestClient, workbench: Workbench, commands: list[list[str]]
):
    workbench.session.set_diameter(120)
    add(page, [10, 10, 10])
    workbench.rounds.train(rounds.TrainWish())
    assert "--accepted" not in commands[-1]
    shown = [{"at": [20, 20, 20], "score": 1.0}]
    act(page, do="judge", tomogram="sim_0001", answer="accept", order="teach", shown=shown)
    # Put right by a voxel, it is the same particle.
    act(page, do="move", tomogram="sim_0001", particle=2, at=[20, 20, 21])
    workbench.rounds.train(rounds.TrainWish())
    command = commands[-1]
    tables = {
        option: read_particles(command[command.index(option) + 1], voxel_size=13.5).voxels.tolist()
        for option in ("--picks", "--accepted")
    }
    assert tables == {"--picks": [[10, 10, 10], [20, 20, 21]], "--accepted": [[20, 20, 21]]}


def test_a_verdict_while_a_round_is_made_leaves_its_tables_in_agreement(
    page: TestClient,
    workbench: Workbench,
    commands: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
):
    workbench.session.set_diameter(120)
    add(page, [10, 10, 10])
    judged = {"do": "judge", "tomogram": "sim_0001", "answer": "accept", "order": "teach"}
    act(page, shown=[{"at": [20, 20, 20], "score": 1.0}], **judged)
    written = rounds._write_table

    def with_a_verdict(*arguments):
        act(page, shown=[{"at": [5, 30, 30], "score": 1.0}], **judged)
        written(*arguments)

    monkeypatch.setattr(rounds, "_write_table", with_a_verdict)
    workbench.rounds.train(rounds.TrainWish())
    assert len(workbench.session.voxels("sim_0001")) > 2
    command = commands[-1]
    picks, accepted = (
        read_particles(command[command.index(option) + 1], voxel_size=13.5).voxels.tolist()
        for option in ("--picks", "--accepted")
    )
    assert (picks, accepted) == ([[10, 10, 10], [20, 20, 20]], [[20, 20, 20]])


def test_a_tomogram_where_all_was_rejected_is_learned_from_too(
    page: TestClient, workbench: Workbench, commands: list[list[str]]
):
    workbench.session.set_diameter(120)
    add(page, [10, 10, 10])
    judged = {"do": "judge", "answer": "reject", "order": "teach"}
    act(page, tomogram="sim_0002", shown=[{"at": [9, 9, 9], "score": 1.0}], **judged)
    # Where the right centre was clicked afterwards it was the place that was wrong.
    act(page, tomogram="sim_0001", shown=[{"at": [10, 10, 12], "score": 1.0}], **judged)
    workbench.rounds.train(rounds.TrainWish())
    command = commands[-1]
    places = command[1 : command.index("--picks")]
    assert [Path(place).stem for place in places] == ["sim_0001", "sim_0002"]
    table = read_particles(command[command.index("--negatives") + 1], voxel_size=13.5)
    assert table.voxels.tolist() == [[9, 9, 9]]


def test_what_a_crashed_server_left_at_work_is_known_to_the_next(simulated: Path, tmp_path: Path):
    session = Session.open(tmp_path / "session", [simulated / "sim_0001.mrc"])
    session.set_diameter(120)
    session.act(Add(tomogram="sim_0001", at=tuple(map(tuple, truth_of(simulated).tolist()))))
    first = rounds.Rounds(session)
    job = first.train(rounds.TrainWish(epochs=5000))
    # The next server has no memory of the first one's process.
    second = rounds.Rounds(session)
    assert second.orphan() == job.process.pid
    with pytest.raises(InputError, match="still is"):
        second.train(rounds.TrainWish())
    second.cancel()
    job.process.wait(WAIT)
    assert second.orphan() is None
    session.close()


def test_a_round_tells_what_it_found_when_all_of_it_is_there(workbench: Workbench, tmp_path: Path):
    (tmp_path / "best.safetensors").write_bytes(b"a model")
    found = workbench.rounds.adopt(tmp_path)
    found.picks.mkdir(parents=True)
    table, listed = found.picks / "a_candidates.csv", found.picks / "a.csv"
    table.write_text("x,y,z,score,probability,picked\n6,5,4,2,0.9,1\n3,2,1.1,0.5,0.25,0\n")
    # The list is written last.
    assert workbench.rounds.candidates(found.number, "a") == []
    listed.write_text("x,y,z,score\n6,5,4,2\n")
    high, low = workbench.rounds.candidates(found.number, "a")
    assert (low.tomogram, low.voxel, low.model) == ("a", (1.1, 2, 3), found.name())
    assert (low.score, low.probability, low.picked) == (0.5, 0.25, False)
    assert high.picked
    assert found.picked() == ["a"]
    table.write_text("x,y,z\n1,2,3\n")
    with pytest.raises(InputError, match="no list of candidates"):
        workbench.rounds.candidates(found.number, "a")


@pytest.fixture
def thirty(page: TestClient, workbench: Workbench, tmp_path: Path):
    """A round with a list of 20 of 30 candidates in sim_0001, which has no record yet."""
    (tmp_path / "best.safetensors").write_bytes(b"a model")
    found = workbench.rounds.adopt(tmp_path)
    found.picks.mkdir(parents=True)
    rows = [f"{2 + 2 * i},20,10,{30 - i},{0.99 - 0.033 * i:.4f},{int(i < 20)}" for i in range(30)]
    table = found.picks / "sim_0001_candidates.csv"
    table.write_text("\n".join(["x,y,z,score,probability,picked", *rows]) + "\n")
    (found.picks / "sim_0001.csv").write_text("x,y,z\n")
    return Thirty(page=page, workbench=workbench, round=found)


@dataclass(frozen=True, kw_only=True)
class Thirty:
    """A round with 30 candidates in sim_0001."""

    page: TestClient
    workbench: Workbench
    round: rounds.Round

    @property
    def record(self) -> Path:
        return record_path(self.round.picks, "sim_0001")

    def write_record(self, **cut: int) -> None:
        """Tell how the list ended."""
        origin = Origin(checkpoint="ab", tomogram=(), cut=RecordedCut(**cut))
        write_record(self.record, record_of("sim_0001", shape=(9, 9, 9), picks=20, origin=origin))

    def listed(self) -> int:
        """How many are picked."""
        return sum(one.picked for one in self._candidates())

    def reject_eight(self) -> None:
        """Reject some of the picks."""
        for one in self._candidates()[8:16]:
            shown = {"at": one.voxel, "score": one.score, "probability": one.probability}
            shown |= {"picked": one.picked, "model": one.model}
            said = {"tomogram": "sim_0001", "answer": "reject", "order": "teach"}
            done = act(self.page, do="judge", shown=[shown], **said)
            assert done.status_code == 200, done.text

    def _candidates(self) -> list[Candidate]:
        return self.workbench.rounds.candidates(self.round.number, "sim_0001")


@pytest.mark.parametrize(
    ("cut", "is_old", "shorter"),
    [({}, False, True), ({"count": 20}, False, False), ({}, True, False)],
)
def test_rejections_shorten_a_list_that_ended_by_itself(
    thirty: Thirty, cut: dict[str, int], is_old: bool, shorter: bool
):
    thirty.write_record(**cut)
    assert thirty.listed() == 20
    # A record that is older than the list is of another list.
    if is_old:
        os.utime(thirty.record, ns=(0, 0))
    thirty.reject_eight()
    assert (thirty.listed() < 16) if shorter else (thirty.listed() == 20)
    for _ in range(8):
        act(thirty.page, do="undo")
    assert thirty.listed() == 20


def test_a_list_that_was_seen_before_its_record_is_looked_at_again(thirty: Thirty):
    thirty.reject_eight()
    assert thirty.listed() == 20
    thirty.write_record()
    assert thirty.listed() < 16


@pytest.mark.parametrize(
    ("code", "log", "said"),
    [
        (2, "Error: a\nError: TS.mrc: no such file", "TS.mrc: no such file"),
        (-9, "", "lack of memory"),
        (137, "", "lack of memory"),
        (-15, "", "signal 15"),
        (1, "Traceback", "fault in TomoPicker"),
    ],
)
def test_how_a_command_ended_is_said_in_plain_words(code: int, log: str, said: str):
    assert said in explain(code, log)


# ------------------------------------------------------------------ exports


def test_the_final_list_is_the_picks_put_right_by_hand():
    def one(x, score, probability, picked=True):
        return Candidate(
            tomogram="a", voxel=(0, 0, x), score=score, probability=probability, picked=picked
        )

    candidates = [
        *(one(0, 9, 0.9), one(20, 8, 0.8), one(40, 7, 0.3), one(60, 6, 0.2, picked=False)),
    ]
    clicked = np.array([[0, 0, 1.0], [0, 0, 100.0], [0, 0, 61.0]])
    rejected = np.array([[0, 0, 20.0]])
    voxels, scores, chances = final_list(clicked, rejected, candidates, radius=5)
    assert voxels[:, 2].tolist() == [1, 100, 61, 40]
    # A clicked particle has the score of the candidate there, or the best.
    assert scores.tolist() == [9, 9, 6, 7]
    assert chances.tolist() == [1, 1, 1, 0.3]
    strict, _, _ = final_list(clicked, rejected, candidates, radius=5, least=0.5)
    assert strict[:, 2].tolist() == [1, 100, 61]


@pytest.mark.parametrize("name", writable_formats())
def test_every_format_is_exported(page: TestClient, simulated: Path, name: str):
    add(page, *truth_of(simulated).tolist())
    wish: dict[str, object] = {"format": name, "tomograms": [0], "content": "seen"}
    if writable_formats()[name]:
        assert page.post("api/exports", json=wish).status_code == 400
        wish["pixel_size"] = 3.375
    (file,) = page.post("api/exports", json=wish).json()["files"]
    assert file["count"] == 24
    assert page.get(f"exports/{file['name']}").status_code == 200
    assert file["name"] in page.get("api/session").json()["exports"]


def test_an_export_without_particles_or_of_an_unknown_format_is_refused(page: TestClient):
    nothing = page.post("api/exports", json={"format": "csv", "tomograms": [0]})
    assert "nothing to write" in nothing.json()["error"]
    unknown = page.post("api/exports", json={"format": "../x", "tomograms": [0]})
    assert "unknown format" in unknown.json()["error"]


# ------------------------------------------------------------------ commands


def test_verdicts_are_exported_as_a_table(
    tomopicker: Command, page: TestClient, workbench: Workbench, tmp_path: Path
):
    folder = workbench.session.folder
    none = tomopicker("review", folder).stdout
    # Whoever comes here to review is told where that is.
    assert "No verdicts yet" in none
    assert f"tomopicker serve {folder}" in none
    empty = tomopicker("review", folder, "--export", tmp_path / "none.csv")
    assert (empty.code, "no verdicts yet" in empty.stderr) == (2, True)
    shown = [{"at": [1, 2, 3], "score": 2.5, "probability": 0.5, "picked": False, "model": "m"}]
    act(page, do="judge", tomogram="sim_0001", answer="reject", order="teach", shown=shown)
    # While the server has the folder open.
    done = tomopicker("review", folder, "--export", tmp_path / "table.csv")
    assert done.code == 0, done.stderr
    assert "sim_0001: 0 accepted, 1 rejected, 0 put off" in done.stdout
    with (tmp_path / "table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert [row[name] for name in ("x", "y", "z")] == ["3.0000", "2.0000", "1.0000"]
    assert (row["verdict"], row["picked"], row["model"]) == ("reject", "0", "m")
    assert row["who"] == read_verdicts(folder)[0].who
    again = tomopicker("review", folder, "--export", tmp_path / "table.csv")
    assert again.code == 2
    assert tomopicker("review", folder, "--export", tmp_path / "table.csv", "--force").code == 0


def test_review_wants_a_session(tomopicker: Command, tmp_path: Path):
    done = tomopicker("review", tmp_path)
    assert (done.code, "is no session" in done.stderr) == (2, True)


def test_serve_says_what_is_wrong_before_it_serves(
    tomopicker: Command, simulated: Path, tmp_path: Path
):
    done = tomopicker("serve", tmp_path / "new", "--port", 0)
    assert (done.code, "--tomograms" in done.stderr) == (2, True)
    run = ("serve", tmp_path / "other", simulated, "--port", 0, "--run", tmp_path)
    done = tomopicker(*run)
    assert (done.code, "holds no model" in done.stderr) == (2, True)
