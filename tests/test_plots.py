"""save_figure: what it writes, what it refuses, and that drawings hold what they save."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qwen3_ref import facts
from qwen3_ref.config import Qwen3Config
from qwen3_ref.course.plots import style, tour


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(style, "FIGURES", tmp_path / "figures")
    return tmp_path / "figures"


def save(data: dict[str, object]) -> None:
    figure, ((axes,),) = style.new_figure()
    axes.plot([1, 2, 3])
    style.save_figure("one", figure, data, alt="A straight line from 1 to 3.", made_from="test")


def test_a_caption_is_a_number_and_what_to_see(folder: Path) -> None:
    """The number is the place among the captions of the lesson; without a caption name and alt text serve."""
    assert style.caption_of("03_b", "A line.") == "**Figure 03_b.** A line."
    folder.mkdir()
    text = '00_z = "One."\n03_a = "Two."\n03_b = "Look at the line."\n'
    (folder / "captions.toml").write_text(text, encoding="utf-8")
    assert style.caption_of("03_b", "A line.") == "**Figure 3.2.** Look at the line."
    assert style.caption_of("00_z", "A line.") == "**Figure 0.1.** One."
    assert style.caption_of("04_c", "A line.") == "**Figure 04_c.** A line."


def test_slides_are_wide(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "SLIDES", folder / "slides")
    monkeypatch.setenv("QWEN3_FIGURES", "slides")
    save({"y": [1.0]})
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["one.png"]
    with Image.open(folder / "slides" / "one.png") as picture:
        assert picture.width == 1920


def test_modes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QWEN3_FIGURES", raising=False)
    save({"y": [1.0]})
    assert not folder.exists(), "without being told, no file is touched"
    monkeypatch.setenv("QWEN3_FIGURES", "check")
    with pytest.raises(ValueError, match="one was never saved; run `make notebooks`"):
        save({"y": [1.0]})
    monkeypatch.setenv("QWEN3_FIGURES", "write")
    save({"y": np.array([1.0, 2 / 3, np.nan])})
    record = json.loads((folder / "one.json").read_text(encoding="utf-8"))
    assert record["data"] == {"y": [1.0, 0.6667, "nan"]} and record["made_from"] == "test"
    first = (folder / "one.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    save({"y": np.array([1.0, 2 / 3, np.nan])})
    assert (folder / "one.png").read_bytes() == first, "drawing twice gives the same bytes"
    assert sorted(p.name for p in folder.iterdir()) == ["one.json", "one.png"]
    monkeypatch.setenv("QWEN3_FIGURES", "check")
    save({"y": np.array([1.0, 0.66671, np.nan])})
    for wrong in ([1.0, 0.67, np.nan], [1.0, 2 / 3], [1.0, np.nan, np.nan]):
        with pytest.raises(ValueError, match=r"figure one shows other numbers than one.json: .data.y"):
            save({"y": np.array(wrong)})
    monkeypatch.setenv("QWEN3_FIGURES", "yes")
    with pytest.raises(ValueError, match="QWEN3_FIGURES is 'yes'"):
        save({"y": [1.0]})


def test_family_areas() -> None:
    """Areas on the canvas are parameters in billions: the squares are to scale."""
    family = {n: Qwen3Config.named(n) for n in ("Qwen3-0.6B", "Qwen3-30B-A3B")}
    figure, data = tour.family_to_scale(family)
    areas = [patch.get_width() * patch.get_height() for patch in figure.axes[0].patches]
    want = [0.59605, 0.59605, 30.53212, 3.35303]
    assert np.allclose(areas, want, atol=1e-4)
    assert data["active_parameters_billions"]["Qwen3-30B-A3B"] == pytest.approx(3.353032704)


def test_path_areas() -> None:
    """The whole path of Qwen3-0.6B: every box as large as its parameters, counted by hand, in millions."""
    figure, data = tour.whole_path(Qwen3Config.named("Qwen3-0.6B"), "Hi!", [13048, 0])
    areas = [patch.get_width() * patch.get_height() for patch in figure.axes[0].patches]
    attention = 1024 * (2048 + 1024 + 1024) + 2048 * 1024 + 2 * 128
    table, ffn = 151_936 * 1024, 3 * 1024 * 3072
    assert np.allclose(areas, np.array([table, *[attention, ffn] * 28, table]) / 1e6)
    assert data["all"] == table + 28 * (attention + ffn + 2 * 1024) + 1024


def test_where_on_the_path() -> None:
    line = tour.where("attention")
    spans = [span for span in line.spans if "on #0072B2" in str(span.style)]
    lit = [line.plain[span.start : span.end].strip() for span in spans]
    assert lit == ["attention"] and all(name in line.plain for name in tour.STATIONS)
    with pytest.raises(ValueError, match="there is no station 'atention'; they are text, ids"):
        tour.where("atention")


def test_wavelengths_by_hand() -> None:
    yarn = facts.about()["yarn"]
    _, data = tour.rope_wavelengths(Qwen3Config.named("Qwen3-8B"), yarn)
    waves = data["wavelength_tokens"]
    assert waves["plain"][0] == pytest.approx(2 * np.pi)
    assert waves["plain"][63] == pytest.approx(2 * np.pi * 1e6 ** (126 / 128))
    assert waves["yarn"][63] == pytest.approx(4 * waves["plain"][63])
    assert data["blend"] == [23, 40]


def test_traffic_curve() -> None:
    """Of 128 experts, two tokens with 8 uniform choices each need 8 + 8 * 120/128 on average."""
    _, data = tour.expert_traffic([1, 2], [8.0, 15.4], Qwen3Config.named("Qwen3-30B-A3B"))
    assert np.allclose(data["uniform"], [8.0, 15.5])
    assert data["mb_per_expert"] == pytest.approx(9.437184)
