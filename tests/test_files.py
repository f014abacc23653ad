"""Files and folders that appear whole or not at all."""

import pytest

from wemoe.files import check_writable, replacing_files, write_text


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    folder = check_writable(tmp_path / "a" / "b")
    assert list(folder.iterdir()) == []


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match=f"output folder '{path}' must be a folder"):
            check_writable(path)


def test_text_replaces_what_was_there(tmp_path):
    write_text(tmp_path / "x.txt", "old")
    write_text(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_an_error_leaves_the_folder_as_it_was(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("kept")

    def fail_midway():
        with replacing_files(tmp_path / "out", stale=("*",)) as staging:
            (staging / "new").write_text("half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail_midway()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]


def test_files_replace_those_of_their_names_at_any_depth_and_what_is_stale(tmp_path):
    out = tmp_path / "out"
    (out / "model").mkdir(parents=True)
    for name in ("front.json", "model/a.bin", "model/b.bin", "model/notes.txt", "b.bin"):
        (out / name).write_text("old")
    with replacing_files(out, stale=("model/*.bin",)) as staging:
        (staging / "model").mkdir()
        for name in ("front.json", "front.csv", "model/a.bin"):
            (staging / name).write_text("new")
    found = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert found == {
        "front.json": "new", "front.csv": "new", "model/a.bin": "new", "model/notes.txt": "old", "b.bin": "old",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [out]
