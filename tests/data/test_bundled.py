"""What comes with the package: the right images, and the script that made them."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import implicit_ntk.data
from implicit_ntk.data import load

BUNDLED = Path(str(implicit_ntk.data.__file__)).parent / "bundled"
SCRIPT = Path(__file__).parents[2] / "scripts" / "bundle_data.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundle_data", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_contents(name: str, split: str, no_variable: None) -> None:
    found = load(name, split)
    assert found.images.shape == (1000, 28, 28)
    assert np.bincount(found.labels).tolist() == [500, 500]
    assert found.source.startswith("bundled subset, classes 0 and 1")
    assert "licence" in found.source or "CC BY-SA" in found.source


@pytest.mark.usefixtures("no_variable")
def test_images_are_what_the_labels_say() -> None:
    # a 0 has a hole in its middle, a 1 has ink there; a shirt is wider than trousers
    digits = load("mnist")
    middle = digits.images[:, 12:16, 12:16].mean(axis=(1, 2))
    assert np.median(middle[digits.labels == 0]) < 10
    assert np.median(middle[digits.labels == 1]) > 128
    clothes = load("fashion-mnist")
    width = (clothes.images.max(axis=1) > 50).sum(axis=1)
    assert np.median(width[clothes.labels == 0]) > np.median(width[clothes.labels == 1]) + 4


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_pixels_are_the_originals(name: str, split: str, originals: Path) -> None:
    full, found = load(name, split, originals), load(name, split, source="bundled")
    for class_ in (0, 1):
        expected = full.images[full.labels == class_][:500]
        np.testing.assert_array_equal(found.images[found.labels == class_], expected)
    order = full.labels[full.labels < 2][:100]
    np.testing.assert_array_equal(found.labels[:100], order)


def test_script_makes_the_bundled_files(script: ModuleType, originals: Path, tmp_path: Path) -> None:
    # values, not bytes: the deflate stream depends on the zlib that is linked
    written = script.bundle(originals, tmp_path)
    assert len(written) == 8
    assert {p.relative_to(tmp_path) for p in written} == {
        p.relative_to(BUNDLED) for p in BUNDLED.glob("*/*.gz")
    }
    for name in ("mnist", "fashion-mnist"):
        for split in ("train", "test"):
            made, found = load(name, split, tmp_path), load(name, split, BUNDLED)
            np.testing.assert_array_equal(made.images, found.images)
            np.testing.assert_array_equal(made.labels, found.labels)


def test_script_refuses_too_few(
    script: ModuleType, originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "PER_CLASS", 10_000)
    with pytest.raises(ValueError, match="originals: fewer than 10000 images of a class"):
        script.bundle(originals, tmp_path)


def test_size_and_licences() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*")) < 1.3e6
    assert {path.name for path in BUNDLED.iterdir()} == {"mnist", "fashion-mnist", "README.md"}
    text = (BUNDLED / "README.md").read_text(encoding="utf-8")
    for words in ("LeCun", "CC BY-SA 3.0", "Zalando SE", "MIT License", "Permission is hereby"):
        assert words in text
