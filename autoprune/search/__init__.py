"""The search: space, proposals, candidate pipeline, study, run folder.

The function `autoprune.search` has the name of this package. Importing anything from here puts the package in its
place, so the package can be called like the function.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from autoprune.api import search

        return search(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
