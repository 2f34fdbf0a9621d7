"""Files that are whole or not there, and the folders of runs that were killed."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from implicit_ntk.experiments import (
    check_free,
    checkpoints_beside,
    is_finished,
    load_arrays,
    load_tree,
    run_folder,
    save_tree,
)
from implicit_ntk.experiments._folder import claim

TREE = {
    "state": (jnp.arange(3.0), jnp.int32(4), {"A": np.eye(2)}),
    "nothing": None,
    "key": jax.random.key(3),
    "keys": jax.random.split(jax.random.key(1, impl="rbg"), 2),
    "count": 7,
    "flag": np.array([True, False]),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Of no experiment."""

    widths: tuple[int, ...] = (3, 4)
    rtol: float | None = None


class Killed(BaseException):
    """What no code catches."""


def plain(leaf: object) -> np.ndarray:
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


class TestTrees:
    def test_come_back_bit_for_bit(self, tmp_path: Path) -> None:
        save_tree(tmp_path / "x.npz", TREE)
        found = load_tree(tmp_path / "x.npz", TREE)
        assert jax.tree.structure(found) == jax.tree.structure(TREE)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(TREE), strict=True):
            assert type(a) is type(b) and plain(a).dtype == plain(b).dtype
            np.testing.assert_array_equal(plain(a), plain(b))
        assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]

    def test_keys_go_on_as_they_were(self, tmp_path: Path) -> None:
        save_tree(tmp_path / "x.npz", TREE)
        found = load_tree(tmp_path / "x.npz", TREE)
        for name in ("key", "keys"):
            assert jax.random.key_impl(found[name]) == jax.random.key_impl(TREE[name])
        assert jax.random.uniform(found["key"]) == jax.random.uniform(TREE["key"])

    def test_of_forms_alone(self, tmp_path: Path) -> None:
        save_tree(tmp_path / "x.npz", [jnp.ones((2, 3))])
        (found,) = load_tree(tmp_path / "x.npz", [jax.ShapeDtypeStruct((2, 3), jnp.float32)])
        np.testing.assert_array_equal(found, np.ones((2, 3)))

    def test_by_name(self, tmp_path: Path) -> None:
        save_tree(tmp_path / "x.npz", {"a": {"b": np.ones(2)}, "c": 3})
        found = load_arrays(tmp_path / "x.npz")
        assert list(found) == ["a/b", "c"] and found["c"] == 3

    @pytest.mark.parametrize(
        ("like", "message"),
        [
            ({"a": np.ones(3), "b": 1}, r"a is float64\[2\] there and float64\[3\] here"),
            ({"a": np.ones(2, np.float32), "b": 1}, r"a is float64\[2\] there and float32\[2\] here"),
            ({"a": np.ones(2), "b": 1.5}, r"b is int64\[\] there and float64\[\] here"),
            ({"a": np.ones(2), "b": 1, "c": 2}, r"c is missing there and int64\[\] here"),
            ({"a": np.ones(2)}, r"b is int64\[\] there and missing here"),
        ],
    )
    def test_of_other_settings_are_refused(self, like: dict, message: str, tmp_path: Path) -> None:
        save_tree(tmp_path / "x.npz", {"a": np.ones(2), "b": 1})
        with pytest.raises(ValueError, match=f"^path: .* is of other settings: {message}"):
            load_tree(tmp_path / "x.npz", like)

    @pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.99])
    def test_truncated_ones_are_refused(self, share: float, tmp_path: Path) -> None:
        path = tmp_path / "x.npz"
        save_tree(path, [np.arange(100.0)])
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"^path: .* is no whole checkpoint; remove it"):
            load_arrays(path)

    def test_a_changed_byte_is_noticed(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npz"
        save_tree(path, [np.arange(100.0)])
        content = bytearray(path.read_bytes())
        content[400] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no whole checkpoint"):
            load_arrays(path)

    @pytest.mark.parametrize("leaf", ["text", jnp.float32, jnp.ones(2, jnp.bfloat16)])
    def test_what_cannot_be_stored(self, leaf: object, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="^tree: a/0 is "):
            save_tree(tmp_path / "x.npz", {"a": [leaf]})
        assert not list(tmp_path.iterdir())

    def test_two_of_one_name(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="one path"):
            save_tree(tmp_path / "x.npz", {"a": {"b": 1}, "a/b": 2})

    def test_a_write_that_fails_leaves_the_last_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "x.npz"
        save_tree(path, 1)

        def half(file, **_):
            file.write(b"PK")
            raise Killed

        monkeypatch.setattr(np, "savez", half)
        with pytest.raises(Killed):
            save_tree(path, 2)
        assert load_tree(path, 0) == 1 and zipfile.is_zipfile(path)
        assert [file.name for file in tmp_path.iterdir()] == ["x.npz"]


def begun(folder: Path, config: Config = Config(), overwrite: bool = False) -> None:
    """A run that is killed after its first checkpoint."""
    with pytest.raises(Killed), run_folder(config, folder, overwrite) as results:
        save_tree(checkpoints_beside(results) / "a.npz", 1)
        (results / "half").write_text("half")
        raise Killed


class TestFolders:
    def test_killed_and_gone_on_with(self, tmp_path: Path) -> None:
        begun(tmp_path / "run")
        assert not (tmp_path / "run").exists()
        with run_folder(Config(), tmp_path / "run", resume=True) as results:
            assert load_tree(checkpoints_beside(results) / "a.npz", 0) == 1
            assert not (results / "half").exists()
            (results / "whole").write_text("whole")
        assert {path.name for path in tmp_path.iterdir()} == {"run"}
        names = {path.name for path in (tmp_path / "run").iterdir()}
        assert names == {"config.json", "environment.json", "figures", "whole"}
        assert "resumed_in" not in json.loads((tmp_path / "run" / "environment.json").read_text())

    def test_resume_begins_where_nothing_is(self, tmp_path: Path) -> None:
        with run_folder(Config(), tmp_path / "run", resume=True):
            pass
        assert is_finished(Config(), tmp_path / "run")

    def test_ctrl_c_says_how_to_go_on(self, tmp_path: Path) -> None:
        with (
            pytest.raises(KeyboardInterrupt, match="--name run --resume"),
            run_folder(Config(), tmp_path / "run") as results,
        ):
            save_tree(checkpoints_beside(results) / "a.npz", 1)
            raise KeyboardInterrupt

    def test_other_settings_are_named(self, tmp_path: Path) -> None:
        begun(tmp_path / "run")
        message = r"^resume: .* is a run with widths = \[3, 4\], not \[3, 5\]"
        with (
            pytest.raises(ValueError, match=message),
            run_folder(Config((3, 5)), tmp_path / "run", resume=True),
        ):
            pass
        assert checkpoints_beside(tmp_path / ".run.partial" / "results").joinpath("a.npz").exists()

    def test_finished_with_other_settings(self, tmp_path: Path) -> None:
        with run_folder(Config(), tmp_path / "run"):
            pass
        with pytest.raises(ValueError, match="rtol = None, not 0.1"):
            is_finished(Config(rtol=0.1), tmp_path / "run")
        assert not is_finished(Config(), tmp_path / "other")

    def test_another_machine_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        begun(tmp_path / "run")
        monkeypatch.setenv("OMP_NUM_THREADS", "77")
        said = []
        with run_folder(Config(), tmp_path / "run", resume=True, say=said.append):
            pass
        assert len(said) == 1 and "not bit for bit" in said[0] and "settings" in said[0]
        written = json.loads((tmp_path / "run" / "environment.json").read_text())
        assert written["settings"].get("OMP_NUM_THREADS") != "77"
        assert written["resumed_in"][0]["settings"]["OMP_NUM_THREADS"] == "77"

    def test_one_that_is_to_replace_another_is_gone_on_with(self, tmp_path: Path) -> None:
        """Until then the finished one stands, and to ask whether it is finished costs no checkpoint."""
        with run_folder(Config(), tmp_path / "run") as results:
            (results / "old").touch()
        begun(tmp_path / "run", overwrite=True)
        assert is_finished(Config(), tmp_path / "run") and (tmp_path / "run" / "old").exists()
        check_free(tmp_path / "run", overwrite=True, resume=True)
        with run_folder(Config(), tmp_path / "run", overwrite=True, resume=True) as results:
            assert load_tree(checkpoints_beside(results) / "a.npz", 0) == 1
        assert not (tmp_path / "run" / "old").exists()
        assert {path.name for path in tmp_path.iterdir()} == {"run"}

    def test_other_settings_where_nothing_was_kept(self, tmp_path: Path) -> None:
        """By a kill before the first checkpoint: what it left binds nobody."""
        with run_folder(Config(), tmp_path / "run") as results:
            claim(Config(), checkpoints_beside(results))
            shutil.copytree(results.parent, tmp_path / ".other.partial")
        with run_folder(Config((9,)), tmp_path / "other", resume=True) as results:
            claim(Config((9,)), checkpoints_beside(results))

    def test_what_is_no_run_is_not_finished(self, tmp_path: Path) -> None:
        with pytest.raises(FileExistsError, match="is no run"):
            is_finished(Config(), tmp_path)

    def test_checkpoints_are_of_one_configuration(self, tmp_path: Path) -> None:
        for _ in range(2):
            claim(Config(), tmp_path / "kept")
        with pytest.raises(ValueError, match=r"rtol = None, not 0\.1"):
            claim(Config(rtol=0.1), tmp_path / "kept")

    def test_unfinished_is_not_thrown_away_unasked(self, tmp_path: Path) -> None:
        begun(tmp_path / "run")
        with pytest.raises(FileExistsError, match="--resume"):
            check_free(tmp_path / "run", overwrite=False)
        with run_folder(Config((9,)), tmp_path / "run", overwrite=True) as results:
            assert not list(checkpoints_beside(results).iterdir())

    def test_nothing_is_left_without_a_checkpoint(self, tmp_path: Path) -> None:
        with (
            pytest.raises(KeyboardInterrupt, match="nothing was written"),
            run_folder(Config(), tmp_path / "a"),
        ):
            raise KeyboardInterrupt
        assert not list(tmp_path.iterdir())

    def test_one_process_at_a_time(self, tmp_path: Path) -> None:
        with (
            run_folder(Config(), tmp_path / "run") as results,
            pytest.raises(FileExistsError, match="another process"),
            run_folder(Config(), tmp_path / "run", overwrite=True),
        ):
            raise AssertionError(results)
        assert (tmp_path / "run" / "config.json").exists()

    @pytest.mark.parametrize("killed_after", ["replaced", "run"])
    def test_killed_between_the_last_renames(
        self, killed_after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of the old run of that name and of the new one: either is there, whole, and can be gone on with."""
        with run_folder(Config(), tmp_path / "run") as results:
            (results / "old").touch()
        rename = Path.rename

        def until(path: Path, target: Path) -> Path:
            rename(path, target)
            if target.name.strip(".").endswith(killed_after):
                raise Killed
            return target

        monkeypatch.setattr(Path, "rename", until)
        with pytest.raises(Killed), run_folder(Config(), tmp_path / "run", overwrite=True) as results:
            save_tree(checkpoints_beside(results) / "a.npz", 1)
            (results / "new").touch()
        monkeypatch.undo()
        if killed_after == "run":
            assert (tmp_path / "run" / "new").exists() and is_finished(Config(), tmp_path / "run")
            assert not (tmp_path / ".run.partial").exists()
        else:
            with run_folder(Config(), tmp_path / "run", resume=True) as results:
                assert load_tree(checkpoints_beside(results) / "a.npz", 0) == 1
        assert (tmp_path / "run" / "config.json").exists()
