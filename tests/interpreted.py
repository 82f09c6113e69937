"""Triton's interpreter, made faster for the tests that run kernels on the CPU.

At every call of a function within a kernel it looks through all of Triton's language for what it has to replace, which
takes half of its time. Once per launch and module is enough.
"""

REPLACED = set()  # modules, by their globals, whose language the present launch has replaced


def replaced_once(replace):
    def once(function):
        module, launching = id(function.__globals__), not REPLACED
        if module in REPLACED:
            return None
        REPLACED.add(module)
        scope = replace(function)
        if launching and scope:  # older versions never restore the language
            restore = scope.restore
            scope.restore = lambda: (REPLACED.clear(), restore())
        return scope

    return once


try:
    from triton.runtime import interpreter

    interpreter._patch_lang = replaced_once(interpreter._patch_lang)
except (ImportError, AttributeError):  # no Triton, or another one: the tests take longer
    pass
