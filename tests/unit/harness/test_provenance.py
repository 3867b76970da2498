"""What run ids are made of stays the same under another Python; what a run used of a GPU."""

from __future__ import annotations

import ast

from reproven.harness import child, provenance

SOURCE = "class A:\n    def f(self, x: int = 1) -> int:\n        return x\n\n\nasync def g():\n    pass\n"


def test_the_tree_of_a_later_python_has_the_same_text(monkeypatch) -> None:
    """Python 3.12 gave definitions a field `type_params`, an empty list for all code without type parameters."""
    plain = provenance._dump(ast.parse(SOURCE))
    later = ast.parse(SOURCE)
    for node in ast.walk(later):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            monkeypatch.setattr(
                type(node), "_fields", tuple({**dict.fromkeys(node._fields), "type_params": 0})
            )
            node.type_params = []
    assert any(hasattr(node, "type_params") for node in ast.walk(later))
    assert provenance._dump(later) == plain
    assert "type_params" not in plain
    assert "args=[" in plain
    assert "decorator_list=[]" in plain  # empty lists are written out, under 3.13 too


def test_a_run_on_the_processor_names_no_gpu() -> None:
    assert child._accelerator("cpu") is None
