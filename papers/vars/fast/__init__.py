"""The attentions of papers/vars/attention.py computed fast: what training takes; nothing here is needed to understand.

Forms with written-out gradients in torch (``dynamic.py``, ``static.py``; transforms of small maps as products,
``fourier.py``; lateral connections as a matrix or by factors, ``lateral.py``), and compiled loops for a CPU with a C
compiler (``*_compiled.py``). They choose themselves by device, precision and size. They step aside where somebody
traces or transforms torch's operators, and where the variable RESIGHT_FAST is 0.
"""

from __future__ import annotations

import os

import torch

from common.errors import UserError

#: The variable that turns fast forms off.
SWITCH = "RESIGHT_FAST"


def allowed() -> bool:
    """Whether fast forms may be used: nobody traces, compiles, exports or transforms, and they are not turned off.

    Raises:
        UserError: the variable is neither 0 nor 1.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # torch.compile and torch.export alike
        return False
    return torch._C._functorch.peek_interpreter_stack() is None and _switched_on()


def _switched_on() -> bool:
    switch = os.environ.get(SWITCH, "1")
    if switch not in ("0", "1"):
        raise UserError(f"{SWITCH} is {switch!r}; it is 1 (fast forms of VARS, the default) or 0 (its equations).")
    return switch == "1"


def in_use() -> str:
    """Which forms of VARS are in use on a CPU, in one sentence."""
    from common.native import compiler, library
    from papers.vars.fast import dynamic_compiled, static_compiled

    if not _switched_on():
        return f"VARS is computed by its equations, papers/vars/attention.py ({SWITCH}=0)."
    if compiler() is None or None in map(library, (dynamic_compiled.SOURCE, static_compiled.SOURCE)):
        return (
            "VARS is computed in torch. Install a C compiler (cc, gcc, clang) or name one by CC: VARS trains up to "
            "twice as fast."
        )
    return f"VARS is computed by compiled C ({SWITCH}=0 turns it off)."
