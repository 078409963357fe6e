"""What the FiftyOne call being served was asked to do.

FiftyOne tells a model neither whether failures are to be skipped nor whether its embeddings go to a field or into
memory, and tells a download nothing at all. The answers decide what an unreadable image must become: an error, an empty
field, or a ``None`` in a list. They are in the frames of the calls themselves, and nowhere else.
"""

import sys


def fiftyone_argument(functions, name, default=None):
    """Looks up a variable of the innermost of some functions that is running.

    Args:
        functions: the names of functions with their modules, eg ``("fiftyone.core.models.apply_model",)``, all of which
            have the variable
        name: the variable
        default (None): what to return where none of the functions is running, as when a model's method is called
            directly, or the variable has no value yet

    Returns:
        the variable's value

    Raises:
        RuntimeError: if a function has no such variable, as in a version of FiftyOne that is not known here
    """
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        function = f"{frame.f_globals.get('__name__')}.{code.co_qualname}"
        if function in functions:
            if name not in code.co_varnames + code.co_cellvars + code.co_freevars:
                import fiftyone

                raise RuntimeError(
                    f"FiftyOne {fiftyone.__version__} has no {name!r} in {function}(), from which this model learns "
                    "what it was asked to do: install a version of FiftyOne that this model's README names as tested"
                )
            return frame.f_locals.get(name, default)

        frame = frame.f_back

    return default
