import pytest
from support.onnx_models import cnn, recurrent, weights_in_if

from gate import graph


@pytest.mark.parametrize("make", [cnn, recurrent, weights_in_if])
def test_a_large_model_is_typed_as_a_small_one_with_its_weights_left_in_place(make, monkeypatch):
    plain = graph.typed(make())
    monkeypatch.setattr(graph, "INLINE_LIMIT", 100)
    monkeypatch.setattr(graph, "_SMALL", 8)
    large = graph.typed(make())
    assert graph.tensor_types(large) == graph.tensor_types(plain)
    assert graph.ranks(large) == graph.ranks(plain)
    assert [*large.graph.initializer] == [*plain.graph.initializer]
    assert [*large.graph.node] == [*plain.graph.node]
