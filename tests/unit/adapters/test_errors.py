from __future__ import annotations

from adapters import errors

MARKS = " │├└─"


def test_the_tree_on_top_of_the_module_is_the_tree_of_its_classes() -> None:
    lines = (errors.__doc__ or "").split("\n\n")[1].splitlines()
    drawn = [((len(line) - len(line.lstrip(MARKS))) // 4, line.strip(MARKS)) for line in lines]
    assert drawn == tree(errors.AdapterError)


def tree(root: type[Exception], depth: int = 0) -> list[tuple[int, str]]:
    own = [
        c for c in root.__subclasses__() if c.__module__ == errors.__name__
    ]  # `adapters.promotion` has its own
    return [(depth, root.__name__), *(entry for c in own for entry in tree(c, depth + 1))]
