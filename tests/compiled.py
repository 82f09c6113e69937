"""A Triton kernel compiled without a GPU; for a process that does not interpret (TRITON_INTERPRET=0)."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


def ptx(kernel, types, constants, capability, **options):
    """The kernel's assembly for GPUs of a compute capability (90: Hopper). `types` of its arguments are Triton's names.

    Pointers and int32 numbers are multiples of 16, as they are where tensors are not cut from others.
    """
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    aligned = [number for number, type in enumerate(signature.values()) if type.startswith("*") or type == "i32"]
    attributes = {(number,): [["tt.divisibility", 16]] for number in aligned}
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]
