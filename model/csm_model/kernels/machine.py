"""The machine that kernels are compiled for, and how a compiled kernel is run on its cores.

Kernels are written as LLVM IR and compiled by the LLVM that comes with llvmlite; no C++ compiler is needed. numba's
threads run them: on Linux they are those of the OpenMP library that torch runs its own products on.

Every kernel is `void kernel(i64 plan, i64 x, i64 out, i64 rows, i64 begin, i64 end)`: addresses of an int64 array that
describes the work, of what goes in and of what comes out, the rows, and which items of the work to do.

`CSM_CPU_ISA` (`csm_model.settings`) chooses the instructions: `native`, `avx512`, `avx2`, or `none`, which leaves all
work to torch. It holds for numba's loops too (`compiled_by_numba`).
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from csm_model.errors import InputError, MissingDependencyError
from csm_model.settings import cpu_isa

Run = Callable[[int, int, int, int, int, int, int, int, int], None]
_MISSING = (
    "numba is not installed: it compiles the kernels of a CPU; pip install 'csm-foundry[serve]', or set "
    "CSM_CPU_ISA=none to do without them"
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What kernels may use.

    `name` and `features` are LLVM's, as `-mcpu` and `-mattr` take them.
    """

    name: str
    features: str
    wide: bool
    """Has 32 vector registers of 16 floats (AVX-512)."""
    dot_bfloat16: bool
    """Adds products of pairs of bfloat16 in one instruction (AVX512-BF16)."""
    dot_int8: bool
    """Adds products of four int8 in one instruction (AVX512-VNNI)."""


AVX2 = Machine(name="x86-64-v3", features="", wide=False, dot_bfloat16=False, dot_int8=False)
"""Every x86-64 processor with AVX2 and FMA, and no more than that."""


def kernels_for(device: torch.device) -> bool:
    """Whether kernels and compiled loops do the work there: on a CPU, unless `CSM_CPU_ISA=none` leaves it to torch."""
    return device.type == "cpu" and _wanted()


@functools.cache
def _wanted() -> bool:
    return cpu_isa() != "none"


@functools.cache
def this_machine() -> Machine:
    """The machine that runs this program, or as much of it as `CSM_CPU_ISA` lets kernels use.

    Raises:
        InputError: `CSM_CPU_ISA` asks for instructions that this processor does not have, or for no kernels.
        MissingDependencyError: numba and llvmlite are not installed.
    """
    asked = cpu_isa()
    if asked == "none":
        raise InputError("CSM_CPU_ISA is 'none': there are no kernels; set it to native, avx512 or avx2 to use them")
    llvm = _llvm()
    found = llvm.get_host_cpu_features()
    wide = found.get("avx512f", False) and found.get("avx512bw", False) and found.get("avx512vl", False)
    if asked == "avx512" and not wide:
        raise InputError("CSM_CPU_ISA is 'avx512', which this processor does not have; set it to native or avx2")
    if asked == "avx2":
        if not (found.get("avx2", False) and found.get("fma", False)):
            raise InputError("CSM_CPU_ISA is 'avx2', which this processor does not have; set it to native or none")
        return AVX2
    return Machine(
        name=llvm.get_host_cpu_name(),
        features=found.flatten(),
        wide=wide,
        dot_bfloat16=wide and found.get("avx512bf16", False),
        dot_int8=wide and found.get("avx512vnni", False),
    )


@functools.cache
def _llvm() -> Any:
    try:
        from llvmlite import binding
    except ImportError:
        raise MissingDependencyError(_MISSING) from None
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


_engines: list[Any] = []
"""Own the machine code: it lives as long as the process."""


def compile_kernel(ir: str, name: str, machine: Machine) -> int:
    """Compiles a module and returns the address of its function `name`."""
    llvm = _llvm()
    module = llvm.parse_assembly(ir)
    module.verify()
    target = llvm.Target.from_default_triple().create_target_machine(cpu=machine.name, features=machine.features, opt=3)
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.slp_vectorization = tuning.loop_vectorization = tuning.loop_unrolling = False  # written as it should be
    builder = llvm.create_pass_builder(target, tuning)
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(name))


@functools.cache
def compiled_by_numba() -> Any:
    """The module numba, told what it must know before it compiles anything: its threads, and the instructions.

    Raises:
        MissingDependencyError: it is not installed.
    """
    # numba counts the cores of the thread that imports it; where threads are bound (OMP_PROC_BIND) that is one. Once it
    # is there, it takes no other number.
    if "numba" not in sys.modules:
        os.environ["NUMBA_NUM_THREADS"] = str(torch.get_num_threads())
    if cpu_isa() == "avx2":
        os.environ["NUMBA_CPU_NAME"], os.environ["NUMBA_CPU_FEATURES"] = AVX2.name, AVX2.features
    try:
        import numba
    except ImportError:
        raise MissingDependencyError(_MISSING) from None
    config: Any = numba.config
    config.reload_config()
    return numba


@functools.cache
def runner() -> Run:
    """`run(prepare, kernel, plan, x, scratch, out, rows, items, parts)`: a kernel on `parts` threads that share items.

    Where `prepare` is not 0, that kernel first turns all rows of `x` into `scratch`, which the other one then reads.
    """
    numba = compiled_by_numba()
    from llvmlite import ir
    from numba.extending import intrinsic

    config: Any = numba.config
    numba.set_num_threads(min(torch.get_num_threads(), config.NUMBA_NUM_THREADS))
    word = numba.types.int64

    @intrinsic
    def _call(context: Any, kernel: Any, plan: Any, x: Any, out: Any, rows: Any, begin: Any, end: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 6)
            builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
            return context.get_dummy_value()

        return numba.types.void(*[word] * 7), code

    call: Any = _call

    @numba.njit([numba.types.void(*[word] * 9)], parallel=True, nogil=True, boundscheck=False, error_model="numpy")
    def run(prepare, kernel, plan, x, scratch, out, rows, items, parts):  # type: ignore[no-untyped-def]  # pragma: no cover
        if prepare != 0:
            call(prepare, plan, x, scratch, rows, 0, 0)
            x = scratch
        if parts <= 1:
            call(kernel, plan, x, out, rows, 0, items)
        else:
            for part in numba.prange(parts):
                call(kernel, plan, x, out, rows, items * part // parts, items * (part + 1) // parts)

    launch: Callable[[int, int, int, int, int, int, int, int, int], None] = run
    return launch


@functools.cache
def program() -> Callable[[Any], None]:
    """`program(list)`: runs the lines of an int64 `[lines, 9]` one after another, each the arguments of `runner`."""
    run: Any = runner()
    import numba

    @numba.njit([numba.types.void(numba.types.int64[:, ::1])], nogil=True, boundscheck=False, error_model="numpy")
    def lines(listed):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        for line in listed:
            run(line[0], line[1], line[2], line[3], line[4], line[5], line[6], line[7], line[8])

    return lines
