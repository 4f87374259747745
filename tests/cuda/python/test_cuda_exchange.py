"""Device arrays: from NumPy and back, and between libraries, in the order of streams."""

from __future__ import annotations

import contextlib
import gc
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import fusedrnn
import kernel_problems
from device_problems import DTYPES, on_device
from fusedrnn import _device, cuda, functional

DeviceArray = getattr(_device.load(), "DeviceArray", None)
LEGACY_STREAM = 1


@contextlib.contextmanager
def new_stream():
    module = _device.required()
    stream = module._new_stream()
    yield stream
    gc.collect()  # what was written on it goes first
    module._destroy_stream(stream)


# NumPy


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 0, 3), (2, 3, 4), (1, 2, 3, 4)])
def test_a_round_trip(dtype, shape):
    values = np.random.default_rng(0).integers(-8, 9, shape).astype(np.float32) / 4
    array = cuda.asarray(values, dtype)
    assert isinstance(array, DeviceArray)
    assert (array.shape, array.dtype, array.device, array.ndim) == (shape, dtype, 0, len(shape))
    assert array.nbytes == values.size * (4 if dtype == "float32" else 2)
    back = array.numpy()
    assert back.dtype == (np.float16 if dtype == "float16" else np.float32)
    np.testing.assert_array_equal(back, values)
    assert repr(array) == f"DeviceArray(shape={shape}, dtype={dtype}, device=cuda:0)"


def test_the_dtype_is_that_of_the_array():
    for dtype in ("float32", "float16"):
        assert cuda.asarray(np.ones(3, dtype)).dtype == dtype
    for dtype in ("float64", "int32", ">f4"):
        with pytest.raises(TypeError) as caught:
            cuda.asarray(np.ones(3, dtype))
        assert str(caught.value) == (
            f"array: expected an array of float32, float16 or bfloat16, got {dtype}"
        )
    assert cuda.asarray(np.arange(3), "float32").numpy().tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"^dtype: expected float32, float16 or bfloat16, got f8$"):
        cuda.asarray(np.ones(3), "f8")


def test_layouts_of_numpy():
    a = np.arange(24, dtype=np.float32).reshape(4, 6)
    for strided in (a.T, a[::2, 1:], a[::-1], np.asfortranarray(a)):
        for dtype in DTYPES:
            np.testing.assert_array_equal(cuda.asarray(strided, dtype).numpy(), strided)


def test_bfloat16_is_rounded_to_nearest_even():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [
            rng.integers(0, 2**32, 10_000, dtype=np.uint32).view(np.float32),
            np.float32([0, -0.0, np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, 1e-45]),
        ]
    )
    with np.errstate(all="ignore"):
        want = values.astype(ml_dtypes.bfloat16)
    got = cuda.asarray(values, "bfloat16").numpy()
    np.testing.assert_array_equal(got, want.astype(np.float32))
    once = np.array([1 + 2**-8 + 2**-40, -1 - 2**-8 - 2**-40])  # float32 would lose the last bit
    assert cuda.asarray(once, "bfloat16").numpy().tolist() == [1 + 2**-7, -1 - 2**-7]
    same = cuda.asarray(want)
    assert same.dtype == "bfloat16"
    np.testing.assert_array_equal(same.numpy(), want.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, 4])
def test_the_name_of_a_dtype_is_a_str(dtype):
    with pytest.raises(TypeError, match=r"dtype: expected a str, got (type|int)"):
        cuda.asarray(np.zeros(3), dtype)


def test_an_array_that_nobody_made():
    empty = DeviceArray.__new__(DeviceArray)
    for use in (lambda: empty.shape, lambda: repr(empty), lambda: cuda.asarray(empty)):
        with pytest.raises((TypeError, RuntimeError)):
            use()


# Other libraries


class Library:
    """An array library with nothing but DLPack: what its arrays are asked is kept."""

    def __init__(self, array, *, versions=(0, 1), stream=None):
        self.array, self.versions, self.stream = array, versions, stream
        self.asked: list[dict] = []

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream=None, **options):
        if self.versions == (0,) and options:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        self.asked.append({"stream": stream, **options})
        if self.versions == (0,):
            options = {}
        return self.array.__dlpack__(stream=stream, **options)

    def __array_namespace__(self):
        return SimpleNamespace(from_dlpack=Library.from_dlpack)

    @staticmethod
    def from_dlpack(array):
        assert isinstance(array, DeviceArray)
        return Library(DeviceArray.view(array))

    def numpy(self):
        return self.array.numpy()

    @property
    def shape(self):
        return self.array.shape


class Interface:
    """An array that offers the CUDA array interface alone."""

    def __init__(self, array, **changes):
        self.array = array  # keeps the memory
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changes}


class Plain:
    """Another library's array, without a way back."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("versions", [(0,), (0, 1)])
def test_dlpack(dtype, versions):
    array = cuda.asarray(np.arange(6.0).reshape(2, 3), dtype)
    producer = Library(array, versions=versions)
    view = cuda.asarray(producer)
    assert (view.shape, view.dtype) == ((2, 3), dtype)
    np.testing.assert_array_equal(view.numpy(), array.numpy())
    asked = {} if versions == (0,) else {"max_version": (1, 0)}
    assert producer.asked == [{"stream": LEGACY_STREAM, **asked}]


@pytest.mark.parametrize("version", [None, (0, 8), (1, 0), (1, 7)])
def test_a_capsule_is_used_once(version):
    array = cuda.asarray(np.ones(3, np.float32))
    capsule = array.__dlpack__(max_version=version)
    name = "dltensor_versioned" if version and version[0] >= 1 else "dltensor"
    assert f'"{name}"' in repr(capsule)
    holder = SimpleNamespace(
        __dlpack__=lambda capsule=capsule, **options: capsule,
        __dlpack_device__=array.__dlpack_device__,
    )
    view = DeviceArray.view(holder)
    assert f'"used_{name}"' in repr(capsule)
    del array, capsule
    gc.collect()
    assert view.numpy().tolist() == [1, 1, 1]
    with pytest.raises(
        TypeError, match=r"^array: expected a DLPack capsule from __dlpack__, got PyCapsule$"
    ):
        DeviceArray.view(holder)


def test_memory_is_given_back():
    count = getattr(_device.required(), "_allocated_bytes", None)
    if count is None:
        pytest.skip("only the emulation counts")
    gc.collect()
    before = count()
    p = on_device(kernel_problems.make("lstm", layers=2, lengths=[3, 1]), "float32")
    results = p.forward()
    gradients = functional.backward(results[2], p.dy)
    capsules = [gradients.x.__dlpack__(), gradients.x.__dlpack__(max_version=(1, 0))]
    view = cuda.asarray(Plain(gradients.x))
    del gradients, capsules
    assert view.numpy().size > 0
    del p, results, view
    gc.collect()
    assert count() == before


@pytest.mark.parametrize("lengths", [None, [3, 1]])
def test_a_spent_tape_keeps_nothing(lengths):
    count = getattr(_device.required(), "_allocated_bytes", None)
    if count is None:
        pytest.skip("only the emulation counts")
    p = on_device(kernel_problems.make("lstm", layers=2, batch=2, lengths=lengths), "float32")
    gc.collect()
    before = count()
    tape = p.forward()[2]
    assert count() > before
    functional.backward(tape, p.dy)
    gc.collect()
    states = sum(part.nbytes for part in p.states)  # copies, of which messages need the shape
    assert tape.spent and count() <= before + states


def test_read_only_arrays_stay_so():
    array = cuda.asarray(np.ones(3, np.float32))
    flagged = {**array.__cuda_array_interface__}
    flagged["data"] = (flagged["data"][0], True)
    view = cuda.asarray(SimpleNamespace(__cuda_array_interface__=flagged))
    assert view.__cuda_array_interface__["data"][1] is True
    assert cuda.asarray(view).__cuda_array_interface__["data"][1] is True
    again = cuda.asarray(Library(view, versions=(1,)))
    assert again.__cuda_array_interface__["data"][1] is True
    with pytest.raises(BufferError, match="a read-only array can't be given by DLPack before"):
        view.__dlpack__()


def test_addresses_between_elements():
    array = cuda.asarray(np.ones(3, np.float32))
    odd = {**array.__cuda_array_interface__, "shape": (2,)}
    odd["data"] = (odd["data"][0] + 2, False)
    with pytest.raises(ValueError, match="array: expected an address that is a multiple of 4, got"):
        cuda.asarray(SimpleNamespace(__cuda_array_interface__=odd))


def test_producers_that_refuse_are_named():
    class Refuses(Plain):
        def __dlpack__(self, **options):
            raise BufferError("not today")

    with pytest.raises(BufferError, match=r"^array: not today$"):
        cuda.asarray(Refuses(cuda.asarray(np.ones(3, np.float32))))


@pytest.mark.parametrize("handle", [-1, 2, 2**70])
def test_handles_that_are_no_streams(handle):
    with cuda.stream(handle), pytest.raises(ValueError, match="stream: expected a stream's handle"):
        cuda.asarray(np.ones(3, np.float32))


def test_a_consumers_stream_may_be_gone():
    module = _device.required()
    stream = module._new_stream()
    array = cuda.asarray(np.ones(3, np.float32))
    capsule = array.__dlpack__(stream=stream)
    module._destroy_stream(stream)
    del array, capsule  # nothing asks the stream any more


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("version", [2, 3])
def test_the_cuda_array_interface(dtype, version):
    array = cuda.asarray(np.arange(6.0).reshape(2, 3), dtype)
    offered = array.__cuda_array_interface__
    assert offered["version"] == 3 and offered["stream"] == LEGACY_STREAM
    assert offered["typestr"] == {"float32": "<f4", "float16": "<f2"}[dtype]
    item = 4 if dtype == "float32" else 2
    changes = {"version": version}
    for strides in (None, (3 * item, item)):
        producer = Interface(array, strides=strides, **changes)
        if version == 2:
            del producer.__cuda_array_interface__["stream"]
        view = cuda.asarray(producer)
        assert (view.shape, view.dtype) == ((2, 3), dtype)
        np.testing.assert_array_equal(view.numpy(), array.numpy())


def test_the_cuda_array_interface_has_no_bfloat16():
    array = cuda.asarray(np.ones(3), "bfloat16")
    assert not hasattr(array, "__cuda_array_interface__")


def test_dlpack_options():
    array = cuda.asarray(np.ones(3, np.float32))
    assert array.__dlpack_device__() == (2, 0)
    array.__dlpack__(dl_device=(2, 0), copy=False, stream=-1)
    with pytest.raises(BufferError, match="is given where it is, on cuda:0; numpy"):
        array.__dlpack__(dl_device=(1, 0))
    with pytest.raises((BufferError, RuntimeError)):  # NumPy's own words
        np.from_dlpack(array)
    for stream in (0, -2):
        with pytest.raises(ValueError, match="stream: expected -1, 1, 2 or a stream's handle"):
            array.__dlpack__(stream=stream)
    copy = DeviceArray.view(
        SimpleNamespace(
            __dlpack__=lambda **options: array.__dlpack__(copy=True),
            __dlpack_device__=array.__dlpack_device__,
        )
    )
    address = "data"
    assert copy.__cuda_array_interface__[address] != array.__cuda_array_interface__[address]
    assert copy.numpy().tolist() == [1, 1, 1]


def test_results_are_of_the_library_of_x():
    p = on_device(kernel_problems.make("lstm", layers=2), "float32")
    x = Library(p.x)
    y, (h, c), tape = functional.forward("lstm", x, p.parameters, p.states)
    assert {type(a) for a in (y, h, c)} == {Library}
    y, h = functional.infer("lstm", x, p.parameters, p.states)
    assert {type(a) for a in (y, *h)} == {Library}
    gradients = functional.backward(tape, Library(p.dy))
    arrays = [gradients.x, *gradients.state, *gradients.parameters.values()]
    assert {type(a) for a in arrays} == {Library}
    y, _ = functional.infer("lstm", Plain(p.x), p.parameters)
    assert isinstance(y, DeviceArray)


def test_arrays_of_every_kind_give_the_same_bits():
    p = on_device(kernel_problems.make("gru", layers=2), "float32")

    def results(make):
        parameters = {name: make(array) for name, array in p.parameters.items()}
        y, h, tape = functional.forward("gru", make(p.x), parameters, make(p.states[0]))
        gradients = functional.backward(tape, make(p.dy), make(p.dstates[0]))
        return [a.numpy() for a in (y, h, gradients.x, *gradients.parameters.values())]

    want = results(lambda array: array)
    for make in (Library, Plain, Interface):
        for got, expected in zip(results(make), want, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_torch(torch):
    if fusedrnn.info()["cuda"]["emulated"] or not torch.cuda.is_available():
        pytest.skip("torch has no GPU, or another than the emulation")
    p = kernel_problems.make("lstm", "float32", layers=2, steps=5, batch=3, units=20)
    x, dy = (torch.tensor(a, device="cuda") for a in (p.x, p.dy))
    parameters = {name: torch.tensor(a, device="cuda") for name, a in p.parameters.items()}
    with torch.cuda.stream(torch.cuda.Stream()):
        y, (h, _), tape = functional.forward("lstm", x, parameters)
        gradients = functional.backward(tape, dy)
        assert all(t.is_cuda for t in (y, h, gradients.x, *gradients.parameters.values()))
        got = gradients.x.cpu().numpy()
    want = functional.backward(functional.forward("lstm", p.x, p.parameters)[2], p.dy).x
    np.testing.assert_allclose(got, want, atol=1e-5)


# Streams


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_call_on_a_stream_of_the_callers(dtype):
    p = kernel_problems.make("lstm", layers=2, lengths=[3, 1], batch_first=True)
    want = on_device(p, dtype).forward()
    q = on_device(p, dtype)
    with new_stream() as stream:
        with cuda.stream(stream):
            y, _, tape = q.forward()
        gradients = functional.backward(tape, q.dy)
        assert (y.stream, gradients.x.stream) == (stream, stream)
        np.testing.assert_array_equal(y.numpy(), want[0].numpy())
        expected = functional.backward(want[2], q.dy)
        np.testing.assert_array_equal(gradients.x.numpy(), expected.x.numpy())
        del y, tape, gradients


def test_a_chain_of_calls_on_changing_streams():
    """Each result is the next call's x, and is given up as soon as that is under way."""
    p = on_device(kernel_problems.make("rnn_tanh", units=24, inputs=24, batch=5), "float32")
    want = p.x
    for _ in range(6):
        want = functional.infer("rnn_tanh", want, p.parameters)[0]
    with new_stream() as a, new_stream() as b:
        got = p.x
        for stream in itertools.islice(itertools.cycle((a, b, LEGACY_STREAM)), 6):
            with cuda.stream(stream):
                got = functional.infer("rnn_tanh", got, p.parameters)[0]
            assert got.stream == stream
        np.testing.assert_array_equal(got.numpy(), want.numpy())
        del got


def test_the_stream_of_a_device_array_is_that_of_the_call():
    p = on_device(kernel_problems.make("gru"), "float32")
    with new_stream() as stream:
        x = DeviceArray.view(p.x, "x", stream)
        assert functional.infer("gru", x, p.parameters)[0].stream == stream
        assert functional.infer("gru", p.x, p.parameters)[0].stream == LEGACY_STREAM
        del x


def test_producers_are_told_the_stream():
    p = on_device(kernel_problems.make("gru"), "float32")
    x = Library(p.x)
    with new_stream() as stream:
        with cuda.stream(stream):
            y, _ = functional.infer("gru", x, p.parameters)
        assert [asked["stream"] for asked in x.asked] == [stream]
        del y


def test_objects_that_are_streams():
    p = on_device(kernel_problems.make("gru"), "float32")

    class Protocol:
        def __cuda_stream__(self):
            return (0, handle)

    with new_stream() as handle:
        kinds = (Protocol(), SimpleNamespace(cuda_stream=handle), SimpleNamespace(ptr=handle))
        for stream in kinds:
            with cuda.stream(stream):
                assert functional.infer("gru", p.x, p.parameters)[0].stream == handle
    with cuda.stream("fast"), pytest.raises(TypeError) as caught:
        functional.infer("gru", p.x, p.parameters)
    assert str(caught.value) == "stream: expected a CUDA stream or its handle, got str"


def test_a_stream_lives_as_long_as_what_is_written_on_it():
    ended = []

    class Owner:
        def __init__(self):
            self.ptr = _device.required()._new_stream()

        def __del__(self):
            _device.required()._destroy_stream(self.ptr)
            ended.append(self.ptr)

    p = on_device(kernel_problems.make("gru"), "float32")
    with cuda.stream(Owner()):
        y = functional.infer("gru", p.x, p.parameters)[0]
    other = DeviceArray.view(y, "y")  # of CUDA's default stream
    del y, p
    gc.collect()
    assert not ended
    assert np.isfinite(other.numpy()).all()
    del other
    gc.collect()
    assert len(ended) == 1


@pytest.mark.parametrize("make", [Library, Plain, Interface])
def test_other_libraries_arrays_are_waited_for(make):
    """What one stream is still to write is read on another one."""
    p = on_device(kernel_problems.make("gru", units=16, inputs=16), "float32")
    first = functional.infer("gru", p.x, p.parameters)[0]
    want = functional.infer("gru", first, p.parameters)[0].numpy()
    with new_stream() as a, new_stream() as b:
        with cuda.stream(a):
            x = functional.infer("gru", p.x, p.parameters)[0]
        with cuda.stream(b):
            y = functional.infer("gru", make(x), p.parameters)[0]
        np.testing.assert_array_equal(y.numpy(), want)
        del x, y


def test_streams_of_the_cuda_array_interface():
    x = cuda.asarray(np.ones((2, 3), np.float32))
    for stream in (None, 1, 2):
        assert cuda.asarray(Interface(x, stream=stream)).numpy().all()
