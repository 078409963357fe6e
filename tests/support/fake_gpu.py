"""A GPU that is not there, to run what is written for one where there is none.

Tensors on it are torch's fake ones: they have a shape, a type and a place, but no values and no memory. Tensors on the
CPU stay real. So a pack of pages of the real model's widths costs next to nothing, and what a GPU would refuse or wait
for is seen:

- an operator that gets tensors of both places raises :class:`Mixed`;
- an operator whose result the host must see before it goes on, such as ``item()`` or ``nonzero()``, raises
  :class:`Waits`. So do, where :meth:`FakeGPU.never_waiting` asks for it, the copies that the host stops for.

Launches of kernels, the bytes that they read and write, copies, and events that are waited for are counted. What comes
back to the host is made up: no value is right or wrong.
"""

import collections
import contextlib
import types
from unittest import mock

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

# What takes memory and leaves it as it is.
_ALLOCATIONS = {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}

# What gives its input another look, though its schema does not say so.
_LOOKS = {"_reshape_alias", "_unsafe_view", "detach", "lift_fresh", "set_"}

# What writes its first argument without reading it.
_OVERWRITES = {"copy_", "fill_", "zero_"}

_COPIES = {"_to_copy", "copy_"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Mixed(RuntimeError):
    """Tensors of the CPU and of the GPU meet in one operator."""


class Waits(RuntimeError):
    """The host would stop until the GPU has done what it was asked for."""


@contextlib.contextmanager
def fake_gpu(capability=(9, 0), memory=80 * 10**9):
    """Puts a GPU into the machine, for this thread alone. Everything is undone at the end.

    Fake tensors outlive it. So what keeps tensors by their device, eg a cache, must be emptied.

    Args:
        capability ((9, 0)): the version of what it can do, as NVIDIA counts
        memory (80e9): the bytes of its memory

    Yields:
        the :class:`FakeGPU`
    """
    gpu = FakeGPU()
    properties = types.SimpleNamespace(total_memory=memory, major=capability[0], minor=capability[1], name="fake")
    pretended = {
        # Where there is a driver, these ask it, and otherwise raise, or say that there is none.
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: capability,
        "get_device_properties": lambda device=None: properties,
        "is_bf16_supported": lambda including_emulation=True: capability >= (8, 0),
        # There is one device to choose, one stream to order, and no memory to give back.
        "device": lambda index: contextlib.nullcontext(),
        "device_of": lambda tensor: contextlib.nullcontext(),
        "current_stream": lambda device=None: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (memory, memory),
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        # What the host waits for is counted.
        "Event": lambda *_, **__: types.SimpleNamespace(record=lambda stream=None: None, synchronize=gpu.wait),
        "synchronize": lambda device=None: gpu.wait(),
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **pretended))
        stack.enter_context(mock.patch.object(torch.nn.Module, "_apply", _apply))
        stack.enter_context(gpu.tensors)
        stack.enter_context(gpu)
        yield gpu


def _apply(module, function, recurse=True):
    """What ``Module.to()`` does to a module's tensors.

    Torch's own swaps what is in a fake tensor, and raises where something refers to it weakly, as torch does itself.
    """
    for child in module.children() if recurse else ():
        child._apply(function)
    for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        with torch.no_grad():
            applied = function(parameter)
        if applied is not parameter:
            module.register_parameter(name, torch.nn.Parameter(applied, parameter.requires_grad))
    for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
        setattr(module, name, function(buffer))
    return module


class _FakeTensors(FakeTensorMode):
    """Torch's fake tensors, which are told that there is no GPU to set up.

    They would believe :func:`torch.cuda.is_available`.
    """

    avoid_device_init = True


class FakeGPU(TorchDispatchMode):
    """What stands between torch's operators and the tensors on the GPU.

    Attributes:
        launches: a Counter of the kernels that were asked for, by the name of the operator
        traffic: a Counter of the bytes that they read and write, by the name of the operator
        to_device: the list of the copies to the GPU, in bytes
        to_host: the list of the copies from it, in bytes
        waits: how often the host waited for an event
        tensors: the mode of torch's that makes fake tensors
    """

    def __init__(self):
        super().__init__()
        self.tensors = _FakeTensors(allow_non_fake_inputs=True)
        self._may_wait = True
        # Held, so that no other memory is taken for theirs.
        self._pinned = {}
        self.reset()

    def reset(self):
        """Starts counting anew."""
        self.launches, self.traffic = collections.Counter(), collections.Counter()
        self.to_device, self.to_host, self.waits = [], [], 0

    def wait(self):
        """Counts that the host waits for an event."""
        self.waits += 1

    @contextlib.contextmanager
    def never_waiting(self):
        """While in it, a copy raises :class:`Waits` that is not asked to go on by itself, or that comes from memory
        that is not pinned, which a GPU cannot read by itself."""
        self._may_wait = False
        try:
            yield
        finally:
            self._may_wait = True

    def count(self, name, read, written):
        """Counts a launch.

        Args:
            name: the name of what is launched
            read: a list of the tensors that it reads
            written: a list of the tensors that it writes

        Raises:
            Mixed: if one of them is on the CPU, which a kernel cannot reach
        """
        for tensor in [*read, *written]:
            if not _is_fake(tensor):
                raise Mixed(f"{name} gets {tuple(tensor.shape)} on {tensor.device}")
        self.launches[name] += 1
        self.traffic[name] += sum(_touched(tensor) for tensor in [*read, *written])

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        device = kwargs.get("device")
        if not any(map(_is_fake, given)) and (device is None or torch.device(device).type != "cuda"):
            return self._run_on_cpu(operator, args, kwargs)
        # A tensor is asked where it is.
        if operator.namespace == "prim":
            return operator(*args, **kwargs)

        # In inference mode operators come whole that otherwise come in their parts.
        if operator.namespace == "aten" and operator.has_kernel_for_dispatch_key(
            torch._C.DispatchKey.CompositeImplicitAutograd
        ):
            with self.tensors, self:
                found = operator.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found

        self._check(operator, given, args, kwargs)
        try:
            found = operator(*tree_map(self._as_fake, args), **tree_map(self._as_fake, kwargs))
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise Waits(f"{operator} waits for values from the GPU") from error

        self._count_operator(operator, args, kwargs, _tensors(found))
        return tree_map(_made_up, found)

    def _run_on_cpu(self, operator, args, kwargs):
        """Runs an operator on real tensors. To pin memory takes a driver, so what would be pinned is remembered."""
        name = _name(operator)
        is_pinned = name in ("pin_memory", "_pin_memory") or kwargs.get("pin_memory")
        with _disable_current_modes():
            if name in ("pin_memory", "_pin_memory"):
                found = args[0].clone(memory_format=torch.contiguous_format)
            else:
                found = operator(*args, **(kwargs | {"pin_memory": False} if is_pinned else kwargs))
            if is_pinned:
                self._pinned[found.untyped_storage().data_ptr()] = found
        return found

    def _check(self, operator, given, args, kwargs):
        """Raises what a GPU would refuse, or wait for."""
        if _name(operator) in _COPIES:
            return self._check_copy(operator, args, kwargs)
        # A number of the CPU's goes along with the launch.
        if any(map(_is_fake, given)) and any(tensor.device.type == "cpu" and tensor.dim() for tensor in given):
            raise Mixed(f"{operator} gets {', '.join(f'{tuple(x.shape)} on {x.device}' for x in given)}")
        if _name(operator) in _INDEXED and any(index.dtype == torch.bool for index in _tensors(args[1])):
            raise Waits(f"{operator} waits for the places of a mask")

    def _check_copy(self, operator, args, kwargs):
        source, to = _source_and_target(operator, args, kwargs)
        if self._may_wait or source.device.type == to.type:
            return
        if not (kwargs.get("non_blocking") or args[2:3] == (True,)):
            raise Waits(f"{operator} of {tuple(source.shape)} to {to} is not asked to go on by itself")
        if to.type == "cuda" and source.untyped_storage().data_ptr() not in self._pinned:
            raise Waits(f"{operator} of {tuple(source.shape)} to {to} comes from memory that is not pinned")

    def _as_fake(self, value):
        if not isinstance(value, torch.Tensor) or _is_fake(value):
            return value

        with _disable_current_modes():
            return self.tensors.from_tensor(value, static_shapes=True)

    def _count_operator(self, operator, args, kwargs, found):
        name, schema = _name(operator), operator._schema.arguments
        named = dict(zip((argument.name for argument in schema), args, strict=False)) | kwargs
        read = [
            tensor
            for number, argument in enumerate(schema)
            if not argument.is_out and not (name in _OVERWRITES and number == 0)
            for tensor in filter(_is_fake, _tensors(named.get(argument.name)))
        ]
        if name in _COPIES:
            source, to = _source_and_target(operator, args, kwargs)
            if source.device.type != to.type:
                copies = self.to_device if to.type == "cuda" else self.to_host
                copies.append(source.numel() * source.element_size())
                return

        if not operator.is_view and name not in _ALLOCATIONS | _LOOKS:
            # What is read twice comes out of the cache the second time.
            self.count(name, {id(tensor): tensor for tensor in read}.values(), found)


def _name(operator):
    return operator._schema.name.split("::")[1]


def _source_and_target(operator, args, kwargs):
    """What a copy copies, and the device that it copies to."""
    if _name(operator) == "copy_":
        return args[1], args[0].device
    return args[0], torch.device(kwargs.get("device") or args[0].device)


def _tensors(values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _is_fake(tensor):
    return isinstance(tensor, FakeTensor)


def _touched(tensor):
    """The bytes of a tensor in memory: what is expanded is there once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return torch.Size(sizes).numel() * tensor.element_size()


def _made_up(value):
    """What a result is to the program: on the GPU itself, and on the host something real."""
    if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
        return value

    with _disable_current_modes():
        return torch.ones(value.shape, dtype=value.dtype)
