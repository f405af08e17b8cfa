"""Class names are read from every form of file that names them, or the file is named."""

import json
import os
from pathlib import Path

import pytest

from supertickets.errors import UserError
from supertickets.names import differences, read_names


@pytest.mark.parametrize(
    "table",
    [
        ["a", "b"],
        {"names": ["a", "b"]},
        {"names": {"1": "b", "0": "a"}},
        {"classes": [{"index": 1.0, "name": "b"}, {"index": "0", "name": "a"}]},
    ],
)
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_forms_of_class_files(tmp_path: Path, table: object, start: bytes):
    (tmp_path / "c.json").write_bytes(start + json.dumps(table).encode())
    assert read_names(tmp_path / "c.json")[0] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[" * 100_000, "not valid JSON"),
        ('{"names": []}', "expected a list of class names"),
        ('["a", ["b"]]', "class names must be text"),
        ('["a", "\\ud800"]', "class names must be text"),
        ('["a", "a"]', "'a' occurs twice"),
        ('{"names": {"0": "a", "2": "b"}}', r"class indices must be 0\.\.1"),
        ('{"classes": [{"index": 0.5, "name": "a"}]}', "each class needs"),
        ('{"classes": [{"index": 1e400, "name": "a"}]}', "each class needs"),
        ('{"classes": [{"name": "a"}, 3]}', "each class needs"),
        (json.dumps([f"{i}" for i in range(100_001)]), "at most 100000 are allowed"),
    ],
)
def test_class_files_that_cannot_be_used_are_named(tmp_path: Path, text: str, complaint: str):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match=rf"c\.json: .*{complaint}"):
        read_names(tmp_path / "c.json")


def test_a_pipe_is_no_file(tmp_path: Path):
    os.mkfifo(tmp_path / "c.json")  # reading it would never end
    with pytest.raises(UserError, match="not a file"):
        read_names(tmp_path / "c.json")


def test_how_names_differ_in_words():
    assert differences(["a", "b"], ["a", "b"]) == ""
    assert differences(["a", "b"], ["b", "a"]) == "knows other labels: 'a' where the data have 'b' and 1 more"
    assert differences(["a"], ["a", "b"]) == "knows 1 labels, the data have 2"
