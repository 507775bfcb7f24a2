"""Decoding steps through torch.compile, where there is a C++ compiler for it to use.

On a CPU the weights are frozen into the compiled step: Inductor lays them out once, as the processor's matrix products
want them, so that a step of one row runs at the speed of memory. That costs the memory of the weights a second time.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from csm_model.errors import MissingDependencyError

_COMPILED: weakref.WeakKeyDictionary[nn.Module, Callable[..., Tensor]] = weakref.WeakKeyDictionary()


def compiled_step(module: nn.Module) -> Callable[..., Tensor]:
    """The module's forward, compiled for the shapes that it is called with; one compilation serves all who ask.

    Raises:
        MissingDependencyError: there is no C++ compiler.
    """
    if module not in _COMPILED:
        _need_compiler()
        options: dict[str, Any] = {"freezing": next(module.parameters()).device.type == "cpu"}
        step: Callable[..., Tensor] = torch.compile(module.forward, dynamic=False, fullgraph=True, options=options)
        _COMPILED[module] = step
    return _COMPILED[module]


@functools.cache
def _need_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise MissingDependencyError(
            f"torch.compile needs a C++ compiler ({' '.join(str(error).split())}): install g++, or leave compiling out"
        ) from None
