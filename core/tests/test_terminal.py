"""What is printed shows names as they are, in any encoding."""

import io

import pytest

from supertickets.names import printable
from supertickets.scores import score_table
from supertickets.terminal import PlainConsole, headline, summary_table

NAMES = ["[other]", "[/x]", "road [/lane]", ":smile:", "[bold]", "$5_$10"]


def shown(*objects: object, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    PlainConsole(file=stream, width=200).print(*objects)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("name", NAMES)
def test_markup_in_names_is_text(name: str):
    assert shown(name).strip() == name
    assert f" {name}: 1.0000" in shown(score_table(name, {"iou": {name: 1.0}})) and name in shown(
        summary_table(name, {"a": name})
    )


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_what_an_encoding_lacks_is_escaped(encoding: str):
    assert shown("caf\udce9.png", encoding=encoding).strip() == r"caf\udce9.png"
    assert "猫" in shown("猫") and r"\u732b" in shown("猫", encoding="ascii")


def test_a_name_of_other_bytes_is_text_of_its_own():
    assert printable("caf\udce9") == r"caf\xe9" and printable("café 猫") == "café 猫"


def test_a_score_that_is_not_defined_is_told():
    assert headline({"ap": None, "macs": 10.0, "sparsity": 0.5}, "ap").startswith("ap not defined  MACs 10")
