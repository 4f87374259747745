"""fusedrnn in the place of torch's recurrent layers: the same modules, on other kernels.

`LSTM`, `GRU`, `RNN`, `LSTMCell`, `GRUCell` and `RNNCell` are subclasses of torch's own, with the
same arguments, parameters, results and errors; `accelerate` puts them into an existing model.

>>> import torch
>>> import fusedrnn.torch
>>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LSTM(3, 4))
>>> print(fusedrnn.torch.accelerate(model))
1: accelerated
>>> y, (h, c) = model(torch.zeros(5, 1, 2))
>>> y.sum().backward()

What is the same, and what is added:

- Results agree with torch's to rounding; gradients are those of `loss.backward()`, including
  ``retain_graph``. With ``create_graph=True`` the backward pass is torch's.
- Parameters may change in any way between calls; the kernels' packed weights follow
  (`trust_version_counters` tells how).
- ``layer(x, lengths=[...])`` runs over padded sequences of any order; a PackedSequence works too.
- `torch.compile`, `torch.export`, AOTInductor, `torch.fx`, `torch.func` and autocast work; the
  operators are ``torch.ops.fusedrnn.rnn`` and its gradients.
- A layer runs where its parameters are: on the CPU in float32 and float64, on a GPU of CUDA in
  float32, float16 and bfloat16, under autocast in autocast's dtype.
- What the kernels can't take is computed by torch: other devices and dtypes, projections on a GPU,
  tensor subclasses, forward-mode differentiation, `torch.jit.trace`, `torch.onnx.export`. With
  `strict` that is an error. (`torch.jit.script` and ScriptModule put torch's own layers into the
  model that they are given.)
- What looks for torch's exact classes wants them back first, by ``restore(model)``: quantization,
  and pickles of whole models that are loaded without fusedrnn. `accelerate` lists these cases.
- The kernels run on torch's own threads, where torch has OpenMP: two pools would be in each other's
  way. They use as many as `torch.set_num_threads` says, unless `fusedrnn.set_num_threads` has said
  another number since, or ``FUSEDRNN_NUM_THREADS`` did at first. A forked process, such as a
  DataLoader's worker, has threads of its own, and follows the same number.
- Dropout masks come from the kernels' generator, whose key is drawn by torch's: `torch.manual_seed`
  makes them repeatable, but they are not torch's masks.
"""

from __future__ import annotations

try:
    import torch as _torch
except ImportError as error:
    raise ImportError(
        "fusedrnn.torch needs PyTorch, which isn't installed: pip install 'fusedrnn[torch]'"
    ) from error

from .. import _core
from . import _dynamo, _ops, _tracers  # noqa: F401  (_ops registers the operators)
from ._switches import NotAccelerated, strict, trust_version_counters
from .accelerate import Report, accelerate, restore
from .cells import GRUCell, LSTMCell, RNNCell
from .modules import GRU, LSTM, RNN

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "NotAccelerated",
    "RNNCell",
    "Report",
    "accelerate",
    "restore",
    "strict",
    "trust_version_counters",
]


def __dir__() -> list[str]:
    return sorted(__all__)


for _name in __all__:  # errors and pickles name what users import
    globals()[_name].__module__ = __name__

_dynamo.admit()
_tracers.admit()

_core.borrow_threads(_torch._C.__file__)
