"""Files of arrays and JSON: written whole or not at all, read with a reason or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import fusedrnn
from fusedrnn import models
from fusedrnn.models import checkpoint
from fusedrnn.models._tree import difference, flatten, restore
from fusedrnn.models.checkpoint import CheckpointError, load, read, save, write, write_atomically
from scripts import output
from training_problems import Line, raises

SUFFIXES = checkpoint.SUFFIXES
FORMAT = "test 1"


def odd_arrays() -> dict[str, np.ndarray]:
    square = np.arange(12.0).reshape(3, 4)
    return {
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "flags": np.array([True, False]),
        "integers": np.array([[-(2**63), 2**63 - 1]]),
        "fortran": np.asfortranarray(square),
        "strided": square[::2, ::-1],
        "a.b/c d": np.array([np.nan, -0.0, np.inf], np.float32),
    }


@pytest.fixture(name="path", params=SUFFIXES)
def fixture_path(request, tmp_path):
    return tmp_path / f"file{request.param}"


# Whole files


def test_what_is_read_is_what_was_written(path):
    metadata = {"text": "é\n", "number": 0.1 + 0.2, "list": [1, None, {"x": True}]}
    write(path, FORMAT, metadata, odd_arrays())
    got, arrays = read(path, FORMAT)
    assert got == {"format": FORMAT, **metadata}
    assert arrays.keys() == odd_arrays().keys()
    for name, want in odd_arrays().items():
        assert arrays[name].dtype == want.dtype
        assert arrays[name].shape == want.shape
        assert arrays[name].tobytes() == want.tobytes()
    assert os.listdir(path.parent) == [path.name]


def test_a_file_is_replaced_also_behind_a_link(path, tmp_path):
    write(path, FORMAT, {"n": 1}, {})
    link = tmp_path / f"link{path.suffix}"
    link.symlink_to(path.name)
    write(link, FORMAT, {"n": 2}, {})
    assert link.is_symlink()
    assert read(path, FORMAT)[0]["n"] == 2


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(call, path, monkeypatch):
    write(path, FORMAT, {}, {"a": np.arange(3)})
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with raises(CheckpointError, f"{path}: No space left on device"):
            write(path, FORMAT, {}, {"a": np.arange(4)})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_kill_anywhere_leaves_a_whole_file(tmp_path):
    """The process dies at each system call that makes the file; the next one removes the rest."""
    path = tmp_path / "file.bin"
    script = """
        import os, signal, sys
        from fusedrnn.models import checkpoint
        path, deadly, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
        act, calls = getattr(os, deadly), 0

        def die(*arguments):
            global calls
            calls += 1
            if calls == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*arguments)

        setattr(os, deadly, die)
        checkpoint.write_atomically(path, b"new" * 100_000)
    """
    for deadly, count, whole, left in (
        ("fsync", 1, b"old", 1),  # all is written
        ("replace", 1, b"old", 1),
        ("fsync", 2, b"new" * 100_000, 0),  # it has its name
    ):
        write_atomically(path, b"old")
        with pytest.raises(AssertionError):
            output(script, str(path), deadly, str(count))
        assert path.read_bytes() == whole
        assert len(os.listdir(tmp_path)) == 1 + left
    write_atomically(path, b"newest")
    assert os.listdir(tmp_path) == ["file.bin"]


def test_what_a_living_process_writes_stays(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        theirs = tmp_path / f".file.bin.{process.pid}.tmp"
        theirs.write_bytes(b"half")
        other = tmp_path / ".other.bin.1.tmp"
        other.write_bytes(b"")
        write_atomically(tmp_path / "file.bin", b"whole")
        assert theirs.exists()
        assert other.exists()
        process.communicate(b"\n")
    write_atomically(tmp_path / "file.bin", b"whole")
    assert not theirs.exists()


def test_ctrl_c_while_writing(path, monkeypatch):
    write(path, FORMAT, {"n": 1}, {})
    act = os.fsync

    def interrupt(descriptor):
        signal.raise_signal(signal.SIGINT)
        act(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(path, FORMAT, {"n": 2}, {})
    assert read(path, FORMAT)[0]["n"] == 1
    assert os.listdir(path.parent) == [path.name]


# Files that can't be read


def test_a_file_cut_anywhere_is_refused(path):
    write(path, FORMAT, {"n": [1] * 50}, {"a": np.arange(100), "b": np.ones(7, np.float32)})
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"broken, or not a file of fusedrnn") as caught:
            read(path, FORMAT)
        assert str(caught.value).startswith(f"{path}: ")
    path.write_bytes(whole)
    read(path, FORMAT)


def test_foreign_files_are_refused(path):
    np.save(path.parent / "array.npy", np.arange(5))
    np.savez(path.parent / "arrays.npz", a=np.arange(5))
    import safetensors.numpy

    tensors = safetensors.numpy.save({"a": np.arange(5)}, metadata={"x": "y"})
    plain = safetensors.numpy.save({"a": np.arange(5)})
    files = [(path.parent / name).read_bytes() for name in ("array.npy", "arrays.npz")]
    for content in (b"text\n" * 100, b"PK\x03\x04", *files, tensors, plain):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"broken, or not a file of fusedrnn"):
            read(path, FORMAT)


def test_a_file_of_another_format_is_refused(path):
    write(path, "test 2", {}, {})
    with raises(CheckpointError, f"{path}: expected format 'test 1', got 'test 2'"):
        read(path, FORMAT)


def test_paths_that_can_not_be(tmp_path, monkeypatch):
    for name in ("model", "model.pt", "model.npz.tmp"):
        with raises(CheckpointError, f"{name}: expected a name that ends in .npz or .safetensors"):
            checkpoint.check_writable(name)
    missing = tmp_path / "none" / "a.npz"
    with raises(CheckpointError, f"{missing}: there is no directory {missing.parent}"):
        checkpoint.check_writable(missing)
    with raises(CheckpointError, f"{missing}: No such file or directory"):
        write(missing, FORMAT, {}, {})
    with pytest.raises(CheckpointError, match=r"a\.npz: No such file or directory"):
        read(missing, FORMAT)
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    with raises(CheckpointError, f"{folder}: is a directory"):
        checkpoint.check_writable(folder)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with raises(CheckpointError, f"{tmp_path}/a.npz: no permission to write in {tmp_path}"):
        checkpoint.check_writable(tmp_path / "a.npz")


def test_npz_needs_no_safetensors(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    write(tmp_path / "a.npz", FORMAT, {}, {})
    read(tmp_path / "a.npz", FORMAT)
    path = tmp_path / "a.safetensors"
    needs = "needs the package safetensors (pip install safetensors); .npz does not"
    with raises(CheckpointError, f"{path}: {needs}"):
        write(path, FORMAT, {}, {})
    with raises(CheckpointError, f"{path}: {needs}"):
        read(path, FORMAT)


# Models


@pytest.mark.parametrize(
    "layer",
    [
        fusedrnn.LSTM(3, 16, 2, dropout=0.25, proj_size=6, seed=1),
        fusedrnn.GRU(3, 16, bidirectional=True, batch_first=True, dtype="float64", seed=1),
        fusedrnn.RNN(3, 16, bias=False, nonlinearity="relu", seed=1),
    ],
)
def test_a_layer_comes_back(layer, path):
    x = np.random.default_rng(0).normal(size=(5, 5, 3)).astype(layer.dtype)
    layer.forward(x)  # draws from dropout
    save(path, layer)
    copy = load(path)
    assert repr(copy) == repr(layer)
    for name, p in layer.parameters.items():
        assert copy.parameters[name].tobytes() == p.tobytes()
    assert copy.random_state == layer.random_state
    assert copy.forward(x)[0].tobytes() == layer.forward(x)[0].tobytes()


def test_a_sequence_model_comes_back(path):
    body = models.Sequential(
        models.Embedding(7, 4, seed=1), fusedrnn.GRU(4, 16, 2, dropout=0.5, seed=2)
    )
    model = models.SequenceModel(body, models.SoftmaxHead(16, 7, seed=3))
    symbols = np.arange(15).reshape(5, 3) % 7
    batch = models.Batch(symbols, symbols)
    model.step(batch)
    save(path, model)
    copy = load(path)
    assert copy.random_state == model.random_state
    assert copy.evaluate(batch).loss == model.evaluate(batch).loss
    assert copy.step(batch).loss == model.step(batch).loss
    assert set(read(path, checkpoint.MODEL)[1]) == set(model.parameters)


def test_only_known_models_are_saved(path):
    with pytest.raises(TypeError, match="Line"):
        save(path, Line())
    assert not path.exists()


def test_a_file_without_the_model_s_arrays_is_refused(path):
    save(path, fusedrnn.GRU(3, 16, seed=0))
    metadata, arrays = read(path, checkpoint.MODEL)
    del arrays["bias_hh_l0"]
    write(path, metadata.pop("format"), metadata, arrays)
    with pytest.raises(CheckpointError, match="parameters: missing bias_hh_l0"):
        load(path)


# Nested values


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        [1, 2.5, "x", True],
        (np.arange(3), (np.ones(2), None)),
        {"a": {"b": np.zeros(1)}, "a.b": np.ones(1), "tuple": (), "array": []},
        [(), {}, [{"dict": {}}]],
    ],
)
def test_nested_values_come_back(value):
    arrays: dict = {}
    structure = flatten(value, "v", arrays)
    got = restore(structure, arrays)
    assert repr(got) == repr(value)


def test_values_that_json_can_not_hold():
    for value, kind in ((object(), "object"), (np.float32(1), "float32"), ({1}, "set")):
        with raises(
            TypeError,
            "state.1: expected None, a number, str, array, list, tuple or dict, got " + kind,
        ):
            flatten([None, value], "state", {})


def test_difference_names_the_first_place():
    value = {"a": 1, "b": {"c": [1, [2, 3]]}}
    assert difference(value, {"a": 1, "b": {"c": [1, [2, 3]]}}, "v") is None
    for other, message in (
        ({"a": 1, "b": {"c": [1, [2, 4]]}}, "v.b.c[1][1]: expected 3, got 4"),
        ({"a": 1, "b": {"c": [1]}}, "v.b.c: expected [1, [2, 3]], got [1]"),
        ({"a": 1}, "v: missing b"),
        ({**value, "d": 1}, "v: unexpected d"),
        (None, f"v: expected {value}, got None"),
    ):
        assert difference(value, other, "v") == message
