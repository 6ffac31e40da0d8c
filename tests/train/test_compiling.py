"""Compiled blocks compute what eager ones do, with the same graphs for any number of documents."""

import pytest
import torch

from athanor.model.config import ModelConfig
from athanor.model.decoder import Decoder
from athanor.model.init import init_weights
from athanor.train import compiling


def model() -> Decoder:
    config = ModelConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        norm_placement="depth_scaled_sandwich",
        init="tiny",
    )
    made = Decoder(config)
    init_weights(made, 0)
    return made


def test_equals_eager_and_serves_changing_documents() -> None:
    if compiling.cpp_compiler() is None:
        return  # the other test covers such a machine
    eager, compiled = model(), model()
    assert compiling.compile_blocks(compiled, torch.device("cpu"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    ids = torch.randint(0, 64, (2, 32))
    for doc_lens in ([[32], [10, 22]], [[5, 5, 22], [32]], [[8, 8, 8, 8], [1, 31]]):
        losses = [m.loss(ids, ids, None, doc_lens)[0] for m in (eager, compiled)]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-4)
        for m, loss in zip((eager, compiled), losses, strict=True):
            m.zero_grad()
            loss.backward()
        for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # a block, the final norm


def test_a_machine_without_a_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert not compiling.compile_blocks(model(), torch.device("cpu"))
