"""What the FiftyOne call being served was asked to do.

FiftyOne tells a model neither whether failures are to be skipped nor whether its embeddings go to a field or into
memory, and tells a download nothing at all. The answers decide what an unreadable image must become: an error, an empty
field, or a ``None`` in a list. They are in the frames of the calls themselves, and nowhere else.
"""

import sys


def fiftyone_argument(module, name, default=None):
    """Looks up a variable of the innermost running function of a module.

    Args:
        module: the module's name, eg ``"fiftyone.core.models"``
        name: the variable
        default (None): what to return where no running function of the module has it, as when a model's method is
            called directly

    Returns:
        the variable's value
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == module and name in frame.f_locals:
            return frame.f_locals[name]

        frame = frame.f_back

    return default
