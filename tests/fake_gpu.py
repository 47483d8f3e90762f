"""
A GPU that computes no numbers, for tests on machines that have none.

    with fake_gpu() as gpu:
        ...                 a script that finds and uses cuda:0
    gpu.peak, gpu.waits, gpu.copies, gpu.operations

What the CPU computes is real. A tensor on cuda:0 is a FakeTensor of PyTorch: it has a shape, a dtype and a
device, and no numbers. So an operation on tensors of two devices is an error, as it is on a real GPU. Each
operation is seen by `FakeGPU`, which counts

    waits       where the program would wait for the GPU: it asks for a number, or copies to or from memory that
                is not pinned
    copies      tensors that come from the CPU, whether the program waits or not
    operations  those that start at least one kernel; views do not
    peak        the most bytes that tensors on the GPU take at any time, each storage from its making to its end

Attention takes the kernel that PyTorch would take on an H100. What is not counted: what CUDA itself and the
libraries keep (about 1 GB), and what is lost between blocks of memory.

A build of PyTorch without CUDA lacks what autograd asks of a device. fake_gpu.cpp adds that, and needs g++.
"""

import ctypes
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

ROOT = Path(__file__).resolve().parent.parent
PROJECT_FOLDERS = (ROOT, ROOT / 'util')
ALLOCATOR_BLOCK = 512  # CUDA's allocator of PyTorch rounds every request up to a multiple of it
H100_BYTES = 85e9  # what torch.cuda says of an H100 of 80 GB
# tensors of which many are changed by one kernel
FOREACH_TYPES = [torch.Tensor, torch.nn.Parameter, FakeTensor]
aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


def why_not():
    """Why there can be no fake GPU here, or ''."""
    if torch.cuda.is_available():
        return 'there is a real CUDA device'
    if not torch.version.cuda and shutil.which('g++') is None:
        return 'without CUDA in PyTorch it needs g++'
    return ''


@cache
def install_guard():
    """Add what a build of PyTorch without CUDA lacks. It stays for the rest of the process."""
    if torch.version.cuda:
        return
    torch_folder = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, 'fake_gpu.so')
        source = Path(__file__).with_name('fake_gpu.cpp')
        subprocess.run(['g++', '-O0', '-std=c++20', '-shared', '-fPIC', f'-I{torch_folder}/include', source,
                        '-o', library, f'-L{torch_folder}/lib', '-ltorch_cpu', '-lc10'], check=True)
        ctypes.CDLL(str(library)).install()


# -----------------------------------------------------------------------------
# which kernel attention takes

class Attention:
    """
    F.scaled_dot_product_attention of an H100: the rules of ATen/native/transformers/cuda/sdp_utils.cpp for the
    inputs that this project gives it. `seen` counts which kernel ran on which shapes.
    """

    def __init__(self):
        self.cudnn_is_on = True
        self.seen = Counter()

    def turn_cudnn(self, on):
        self.cudnn_is_on = on

    def kernel(self, q, k, v, mask, dropout):
        """'cudnn', 'flash', 'efficient' or 'math': the first in this order that takes these inputs."""
        d, d_v = q.shape[-1], v.shape[-1]
        is_half = q.dtype in (torch.bfloat16, torch.float16)
        multiple = 8 if is_half else 4
        widths_fit = max(d, d_v) <= 128 and d % 8 == 0 and d_v % 8 == 0
        if is_half and self.cudnn_is_on and widths_fit and k.shape[2] > 1:
            if not dropout or (q.shape[2] > 1 and (dropout * 16).is_integer()):
                return 'cudnn'
        if is_half and mask is None and d == d_v and d <= 256:
            return 'flash'
        if d % multiple == 0 and d_v % multiple == 0:
            return 'efficient'
        return 'math'

    def __call__(self, q, k, v, mask=None, dropout=0.0):
        if torch.is_autocast_enabled('cuda'):
            dtype = torch.get_autocast_dtype('cuda')
            q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        name = self.kernel(q, k, v, mask, dropout)
        self.seen[name, tuple(q.shape), tuple(k.shape), mask is not None] += 1
        needs_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        if mask is not None:  # the kernels take numbers to add, and a copy for each head
            mask = torch.where(mask, 0.0, -65504.0).to(q.dtype).expand(*q.shape[:3], k.shape[2])
        if name == 'cudnn':
            return aten._scaled_dot_product_cudnn_attention(q, k, v, mask, needs_grad, dropout, False, False)[0]
        if name == 'flash':
            d = q.shape[-1]
            extra = -d % 8  # flash takes widths that are multiples of 8
            if extra:
                q, k, v = F.pad(q, (0, extra)), F.pad(k, (0, extra)), F.pad(v, (0, extra))
            scale = d ** -0.5
            result = aten._scaled_dot_product_flash_attention(q, k, v, dropout, False, False, scale=scale)
            return result[0][..., :d]
        if name == 'efficient':
            return aten._scaled_dot_product_efficient_attention(q, k, v, mask, needs_grad, dropout, False)[0]
        return aten._scaled_dot_product_attention_math(q, k, v, mask, dropout)[0]


# -----------------------------------------------------------------------------
# what happens on it

class FakeGPU(TorchDispatchMode):
    """Sees every operation: lets the CPU compute its own, and counts those of the GPU."""

    def __init__(self, fake_mode):
        super().__init__()
        self.fake_mode = fake_mode
        self.attention = Attention()
        self.copies = 0
        self.operations = 0
        self.kinds = Counter()  # of operations, by their names
        self.waits = []  # the lines of the project where the program waits
        self.bytes = 0  # that are taken now
        self.peak = 0
        self.blocks = {}  # {storage: (bytes, what made it)}
        self.blocks_at_peak = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.prim.device.default:  # someone reads t.device
            return args[0].fake_device
        inputs = tensors_in(args)
        makes_on = torch.device(kwargs.get('device') or 'cpu').type
        if makes_on != 'cuda' and not any(is_on_gpu(t) for t in inputs):
            with _disable_current_modes():
                return function(*args, **kwargs)

        answer = self.answer(function, args, kwargs)
        if answer is not None:
            return answer
        if function is aten._to_copy.default and not is_on_gpu(args[0]):
            self.note_copy(args[0])
            args = (self.fake_mode.from_tensor(args[0]),)
        elif function is aten.copy_.default and not is_on_gpu(args[1]):
            self.note_copy(args[1])
        elif function in INDEXING:
            for index in args[1]:
                if index is not None and not is_on_gpu(index):
                    self.note_copy(index)
        result = function(*args, **kwargs)
        self.note_operation(function, result)
        return result

    def answer(self, function, args, kwargs):
        """
        What the program would wait for, noted and answered, else None. A number is 1, all of a bool mask is
        True, and a tensor that comes back to the CPU is full of zeros.
        """
        t = args[0] if args else None
        if function is aten._local_scalar_dense.default:
            self.note_wait('a number')
            return number_one(t.dtype)
        if function is aten._to_copy.default and is_on_gpu(t) and str(kwargs.get('device')) == 'cpu':
            self.note_wait('a tensor')
            with _disable_current_modes():
                return torch.zeros(t.shape, dtype=kwargs.get('dtype') or t.dtype)
        if function is aten.copy_.default and not is_on_gpu(t):
            self.note_wait('a tensor')
            return t
        if function in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1]):
            self.note_wait('a number of rows')
            all_rows = []
            for index in args[1]:
                if index is not None and index.dtype == torch.bool:
                    index = torch.arange(index.numel(), device='cuda')
                all_rows.append(index)
            return function(t, all_rows, *args[2:])
        return None

    def note_wait(self, what):
        self.waits.append(f'{what} at {where()}')

    def note_copy(self, source):
        self.copies += 1
        if not getattr(source, 'is_pinned_here', False):
            self.note_wait(f'a copy of {tuple(source.shape)} that is not pinned')

    def note_operation(self, function, result):
        is_new = False
        for t in tensors_in([result]):
            if is_on_gpu(t):
                is_new = self.note_storage(t, function) or is_new
        if is_new or function._schema.is_mutable:
            self.operations += 1
            self.kinds[str(function)] += 1

    def note_storage(self, t, function):
        """Whether the tensor has a storage that was not there before; its bytes are added up."""
        storage = t.untyped_storage()
        key = storage._cdata
        if key in self.blocks:
            return False
        size = -(-storage.nbytes() // ALLOCATOR_BLOCK) * ALLOCATOR_BLOCK
        self.blocks[key] = (size, f'{function} {t.dtype} {tuple(t.shape)}')
        weakref.finalize(storage, self.forget, key)
        self.bytes += size
        if self.bytes > self.peak:
            if self.bytes > 1.01 * self.peak:
                self.blocks_at_peak = dict(self.blocks)
            self.peak = self.bytes
        return True

    def forget(self, key):
        size, _ = self.blocks.pop(key)
        self.bytes -= size

    def largest(self, n):
        """What takes the most memory at the peak: [(what, bytes)]"""
        total = Counter()
        for size, what in self.blocks_at_peak.values():
            total[what] += size
        return total.most_common(n)


def is_on_gpu(t):
    return isinstance(t, FakeTensor) and t.fake_device.type == 'cuda'


def tensors_in(values):
    """The tensors in a list of arguments, of which some may be lists or tuples."""
    found = []
    for value in values:
        if torch.is_tensor(value):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
    return found


def number_one(dtype):
    if dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


def where():
    """The two innermost lines of the project that are running, 'eval.py:12 < finetune.py:34'."""
    lines = []
    frame = sys._getframe(1)
    while frame is not None and len(lines) < 2:
        file = Path(frame.f_code.co_filename)
        if file.parent in PROJECT_FOLDERS:
            lines.append(f'{file.name}:{frame.f_lineno}')
        frame = frame.f_back
    return ' < '.join(lines)


# -----------------------------------------------------------------------------
# a machine that has it

class PlainLoader:
    """
    In the place of torch's DataLoader: the same batches, read by this process,
    marked as pinned if they would be.
    """

    def __init__(self, dataset, sampler, pin_memory, **options):
        self.dataset = dataset
        self.sampler = sampler
        self.pin_memory = pin_memory

    def __iter__(self):
        for item in self.sampler:
            batch = self.dataset[item]
            for t in batch:
                if torch.is_tensor(t):
                    t.is_pinned_here = self.pin_memory
            yield batch


class CPUGenerator(torch.Generator):
    """In the place of torch.Generator: one of the CPU, whatever the device."""

    def __new__(cls, device='cpu'):
        return super().__new__(cls, 'cpu')


torch_load = torch.load


def load_numbers(*args, **options):
    """In the place of torch.load, which gives fake tensors where there is a FakeTensorMode."""
    with _disable_current_modes():
        return torch_load(*args, **options)


@contextmanager
def fake_gpu(capacity=H100_BYTES):
    """The context in which torch.cuda says that there is an H100. -> FakeGPU"""
    install_guard()
    gpu = FakeGPU(FakeTensorMode(allow_non_fake_inputs=True))
    answers = dict(
        is_available=True, is_bf16_supported=True, get_device_name='fake H100', current_device=0,
        device_count=1, mem_get_info=(capacity, capacity), is_initialized=False,
        get_device_capability=(9, 0), set_device=None, synchronize=None, _lazy_call=None)
    uses_threads = torch.autograd.is_multithreading_enabled()
    torch.autograd.set_multithreading_enabled(False)  # the modes belong to this thread
    try:
        with ExitStack() as stack:
            for name, answer in answers.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, mock.Mock(return_value=answer)))
            stack.enter_context(mock.patch.object(torch, 'Generator', CPUGenerator))
            stack.enter_context(mock.patch.object(torch, 'load', load_numbers))
            stack.enter_context(mock.patch.object(F, 'scaled_dot_product_attention', gpu.attention))
            stack.enter_context(mock.patch('torch.backends.cuda.enable_cudnn_sdp', gpu.attention.turn_cudnn))
            stack.enter_context(mock.patch('util.loader.DataLoader', PlainLoader))
            stack.enter_context(mock.patch.object(_foreach_utils, '_foreach_supported_types', FOREACH_TYPES))
            stack.enter_context(gpu.fake_mode)
            stack.enter_context(gpu)
            yield gpu
    finally:
        torch.autograd.set_multithreading_enabled(uses_threads)
