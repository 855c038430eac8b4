from __future__ import annotations

from types import ModuleType

import pytest

from adapters import errors
from adapters.billing import errors as billing_errors

MARKS = " │├└─"


@pytest.mark.parametrize(
    ("module", "root"), [(errors, errors.AdapterError), (billing_errors, errors.NotFound)], ids=str
)
def test_the_tree_on_top_of_the_module_is_the_tree_of_its_classes(
    module: ModuleType, root: type[Exception]
) -> None:
    lines = (module.__doc__ or "").split("\n\n")[1].splitlines()
    drawn = [((len(line) - len(line.lstrip(MARKS))) // 4, line.strip(MARKS)) for line in lines]
    assert drawn == tree(root, module)


def tree(root: type[Exception], module: ModuleType, depth: int = 0) -> list[tuple[int, str]]:
    """The root, and below it the classes of the module."""
    found = [(depth, root.__name__)]
    for child in root.__subclasses__():
        if child.__module__ == module.__name__:
            found += tree(child, module, depth + 1)
    return found
