"""Products of a backward pass and cross-entropy against float64; by the kernels where this machine runs them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from athanor.model import products
from athanor.model.linear import Linear, linear, linears

#: tokens, in, out: multiples of the tiles and not, wider than a block either way, one token
SHAPES = [(64, 32, 64), (1, 64, 32), (37, 96, 1056), (700, 1056, 96), (1100, 64, 64), (300, 544, 544), (50, 48, 64)]
#: bfloat16 keeps 8 bits: half a unit in the last place is 0.0039 at most, and about 0.0017 of a norm. A float32 sum of
#: a thousand products is off by some 4e-7.
ROUNDED = {torch.bfloat16: 0.0025, torch.float32: 1e-6, torch.float64: 1e-14}


def draw(tokens: int, i: int, o: int, dtype: torch.dtype = torch.bfloat16) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(shape, dtype=torch.float64).to(dtype) for shape in ((tokens, o), (tokens, i), (o, i)))


def off(got: torch.Tensor, want: torch.Tensor) -> float:
    return float(((got.double() - want).norm() / want.norm()).detach())


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "library", lambda: None)
    monkeypatch.setattr(products, "_multiplying", lambda dtype: None)


@pytest.fixture
def at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels serve for small matrices too, where PyTorch's products are as fast."""
    kinds = {dtype: kind._replace(least_tokens=1, least_weights=1) for dtype, kind in products._KINDS.items()}
    monkeypatch.setattr(products, "_KINDS", kinds)


@pytest.mark.usefixtures("at_any_size")
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_rounded_once(
    shape: tuple[int, int, int], dtype: torch.dtype, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        without_kernels(monkeypatch)
    grad, x, weight = draw(*shape, dtype)
    wide = [t.double() for t in (grad, x, weight)]
    assert off(products.weight_grads([grad], x)[0], wide[0].T @ wide[1]) < ROUNDED[dtype]
    assert off(products.input_grad([grad], [weight]), wide[0] @ wide[2]) < ROUNDED[dtype]
    assert off(products.linears(x, [weight])[0], wide[1] @ wide[2].T) < ROUNDED[dtype]


def test_which_products_the_kernels_are_for() -> None:
    """All of bfloat16 whose widths are whole tiles; in float32 those whose matrices are large."""
    fit = {
        (dtype, sizes): products.fit(dtype, products.Sizes(*sizes))
        for dtype in (torch.bfloat16, torch.float32, torch.float64)
        for sizes in ((1, 32, 64), (4096, 512, 1408), (4096, 512, 1400), (64, 512, 1408))
    }
    assert [sizes for (dtype, sizes), yes in fit.items() if yes and dtype == torch.bfloat16] == [
        (1, 32, 64),
        (4096, 512, 1408),
        (64, 512, 1408),
    ]
    assert [sizes for (dtype, sizes), yes in fit.items() if yes and dtype != torch.bfloat16] == [(4096, 512, 1408)]


@pytest.mark.usefixtures("at_any_size")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_sum_in_float32_is_not_rounded_to_bfloat16(dtype: torch.dtype) -> None:
    if not products.serve(dtype):
        pytest.skip("this processor or machine cannot build the kernels")
    grad, x, weight = draw(700, 96, 160, dtype)
    total = weight.float().clone()
    products.add_weight_grad(total, grad, x)
    assert off(total, weight.double() + grad.double().T @ x.double()) < 1e-6


@pytest.mark.usefixtures("at_any_size")
def test_a_row_is_the_same_among_any_others() -> None:
    """In float32 an output is one chain of multiply-adds, whatever rows it is computed with."""
    if not products.serve(torch.float32):
        pytest.skip("this processor or machine cannot build the kernels")
    _, x, weight = draw(700, 1056, 96, torch.float32)
    whole = products.linears(x, [weight])[0]
    for first, last in ((0, 1), (3, 30), (100, 517)):
        assert torch.equal(products.linears(x[first:last], [weight])[0], whole[first:last])


@pytest.mark.usefixtures("at_any_size")
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("widths", [(96, 48, 48), (1408, 1408), (16, 1056, 80)])
def test_layers_that_read_the_same_input_are_multiplied_together(
    widths: tuple[int, ...], kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Widths that are no whole blocks of columns, and of different depth where they are summed over."""
    if not kernels:
        without_kernels(monkeypatch)
    torch.manual_seed(3)
    x = torch.randn(3, 211, 80, requires_grad=True)
    layers = [Linear(80, width, bias=i == 0) for i, width in enumerate(widths)]
    grads = [torch.randn(3, 211, width) for width in widths]
    outs = linears(x, *layers)
    torch.autograd.backward(outs, grads)
    wide = x.detach().double().requires_grad_()
    for out, grad, layer in zip(outs, grads, layers, strict=True):
        same = torch.nn.Linear(80, layer.out_features, bias=layer.bias is not None).double()
        same.load_state_dict({k: v.double() for k, v in layer.state_dict().items()})
        want = same(wide)
        want.backward(grad.double())
        assert off(out, want.detach()) < ROUNDED[torch.float32]
        for ours, theirs in zip(layer.parameters(), same.parameters(), strict=True):
            assert ours.grad is not None and theirs.grad is not None
            assert off(ours.grad, theirs.grad) < ROUNDED[torch.float32]
    assert x.grad is not None and wide.grad is not None
    assert off(x.grad, wide.grad) < ROUNDED[torch.float32]


def test_a_layer_that_somebody_watches_is_called_by_itself() -> None:
    layers, seen = [Linear(512, 512), Linear(512, 512)], []
    layers[1].register_forward_hook(lambda *_: seen.append(1))
    linears(torch.randn(512, 512), *layers)
    assert seen == [1]


@pytest.mark.parametrize("dtype, tol", list(ROUNDED.items()))
@pytest.mark.parametrize("vocab", [1000, 8192, 7])
def test_cross_entropy_and_its_gradient(vocab: int, dtype: torch.dtype, tol: float) -> None:
    torch.manual_seed(1)
    logits, labels = (torch.randn(33, vocab) * 3).to(dtype), torch.randint(0, vocab, (33,))
    wide = logits.double().requires_grad_()
    want = F.cross_entropy(wide, labels, reduction="none")
    (gradient,) = torch.autograd.grad(want.sum(), wide)
    losses, _ = products.cross_entropy(logits.clone(), labels, grad=False)
    torch.testing.assert_close(losses.double(), want.detach(), atol=1e-5 if dtype != torch.float64 else 1e-12, rtol=0)
    again, got = products.cross_entropy(logits.clone(), labels, grad=True)
    assert torch.equal(again, losses) and got.dtype == dtype
    assert off(got, gradient) < tol


def test_a_certain_answer_has_no_gradient() -> None:
    """Far apart logits: no overflow, a loss of 0 or of the distance."""
    logits = torch.full((2, 64), -300.0)
    logits[:, 5] = 300.0
    losses, grad = products.cross_entropy(logits, torch.tensor([5, 6]), grad=True)
    torch.testing.assert_close(losses, torch.tensor([0.0, 600.0]))
    torch.testing.assert_close(grad[0], torch.zeros(64))
    assert float(grad[1, 5]) == 1.0 and float(grad[1, 6]) == -1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_bits_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    grad, x, weight = draw(1100, 192, 1408, dtype)
    threads, seen = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            seen.append(
                (
                    products.weight_grads([grad], x)[0],
                    products.input_grad([grad], [weight]),
                    products.linears(x, [weight])[0],
                )
            )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_the_operators_keep_their_contract() -> None:
    grad, x, weight = draw(40, 32, 64)
    operators = torch.ops.athanor_products
    torch.library.opcheck(operators.weight_grads.default, ([grad, grad[:, :32]], x))
    torch.library.opcheck(operators.input_grad.default, ([grad, grad], [weight, weight]))
    torch.library.opcheck(operators.linears.default, (x, [weight, weight[:32]]))


@pytest.mark.usefixtures("at_any_size")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", list(ROUNDED))
def test_a_linear_layer_has_the_gradients_of_pytorchs(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(2)
    ours = Linear(64, 96, bias=bias).to(dtype)
    theirs = torch.nn.Linear(64, 96, bias=bias).double()
    theirs.load_state_dict({k: v.double() for k, v in ours.state_dict().items()})
    x = torch.randn(3, 20, 64, dtype=dtype, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    grad = torch.randn(3, 20, 96, dtype=dtype)
    ours(x).backward(grad)
    theirs(wide).backward(grad.double())
    pairs = [
        (x.grad, wide.grad),
        *((p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)),
    ]
    for got, want in pairs:
        assert got is not None and want is not None
        assert off(got, want) < ROUNDED[dtype]


def test_what_needs_no_gradient_gets_none_and_a_vector_passes() -> None:
    weight = torch.randn(96, 64).bfloat16()
    x = torch.randn(5, 64).bfloat16().requires_grad_()
    linear(x, weight).sum().backward()
    assert x.grad is not None and weight.grad is None
    assert linear(x[0], weight).shape == (96,)


def test_a_dry_run_has_no_memory_to_read() -> None:
    """Tensors that only have shapes go PyTorch's way, through every function."""
    with FakeTensorMode():
        for dtype in (torch.bfloat16, torch.float32):
            grad, x, weight = (torch.empty(shape, dtype=dtype) for shape in ((64, 96), (64, 32), (96, 32)))
            products.add_weight_grad(torch.empty(96, 32), grad, x)
            products.input_grad_into(grad, weight, torch.empty_like(x))
            losses, got = products.cross_entropy(grad, torch.zeros(64, dtype=torch.int64), grad=True)
            assert losses.shape == (64,) and got.shape == grad.shape
            linear(x, weight.requires_grad_()).sum().backward()
            assert weight.grad is not None and weight.grad.shape == weight.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_counters_see_the_products(dtype: torch.dtype) -> None:
    """A dispatch mode is there to see PyTorch's operators: the kernels step aside."""
    grad, x, weight = draw(512, 512, 512, dtype)
    weight.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        linear(x.requires_grad_(), weight).backward(grad)
    assert counter.get_total_flops() == 3 * 2 * 512**3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_compiled_it_is_the_same(dtype: torch.dtype) -> None:
    grad, x, weight = draw(512, 512, 544, dtype)
    weight.requires_grad_()
    results = []
    for run in (linear, torch.compile(linear, backend="aot_eager", fullgraph=True)):
        weight.grad = None
        run(x, weight).backward(grad)
        results.append(weight.grad)
    assert torch.equal(*results)
