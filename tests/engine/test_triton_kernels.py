"""The kernels for GPUs against the plain operators: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from jina_embeddings_v4.engine import attention, decoder, elementwise, kernels
from jina_embeddings_v4.engine.attention import rotate_and_attend
from jina_embeddings_v4.engine.elementwise import Residual, rotate, silu_mul
from jina_embeddings_v4.engine.loading import load_backbone
from jina_embeddings_v4.engine.packing import Packing
from jina_embeddings_v4.engine.processing import Processor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
# The interpreter cannot multiply matrices of bfloat16.
HALF = [torch.float16] if DEVICE.type == "cpu" else [torch.float16, torch.bfloat16]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def triton(monkeypatch):
    """Switches the kernels on."""
    pytest.importorskip("triton", reason="torch's builds without a GPU have no Triton")
    switch(monkeypatch, True)


def switch(monkeypatch, is_on):
    for module in (attention, decoder, elementwise):
        monkeypatch.setattr(module, "fuses", lambda device: is_on)
    monkeypatch.setattr(attention, "causal_stages", lambda device: 2)


def randn(*size, seed=51, dtype=torch.float32):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def assert_rounded_once(found, exact, dtype):
    """Asserts that values are the exact ones, rounded to their type, but for float32's own rounding on the way."""
    # The interpreter cuts bfloat16 off.
    is_cut_off = DEVICE.type == "cpu" and dtype == torch.bfloat16
    bound = torch.finfo(dtype).eps / (1 if is_cut_off else 2) + 1e-5
    torch.testing.assert_close(found.double(), exact, rtol=bound, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [40, 64])
def test_a_sum_is_rounded_and_normalised(triton, dtype, width):
    values, added, further = (randn(5, width, seed=seed, dtype=dtype) for seed in range(3))
    norm = Qwen2_5_VLRMSNorm(width).to(DEVICE, dtype)
    norm.weight.data = randn(width, dtype=dtype)
    sums = values.double()
    residual = Residual(values)
    wide = torch.full((5, width + 7), -1.0, dtype=dtype, device=DEVICE)
    for outputs in (None, added, further):
        if outputs is not None:
            residual.add(outputs)
            sums = sums + outputs.double()
        assert residual.norm(norm, out=wide[:, :width]).data_ptr() == wide.data_ptr()
        assert_rounded_once(values, sums, dtype)
        sums = values.double()
        scaled = sums * torch.rsqrt(sums.square().mean(dim=1, keepdim=True) + norm.variance_epsilon)
        expected = scaled * norm.weight.detach().double()
        assert_rounded_once(wide[:, :width], expected, dtype)
        assert_rounded_once(residual.norm(norm, dtype=torch.float32), expected, torch.float32)

    assert (wide[:, width:] == -1).all()


def test_what_is_added_twice_is_not_lost(triton):
    norm = Qwen2_5_VLRMSNorm(8).to(DEVICE)
    residual = Residual(randn(3, 8))
    residual.add(torch.ones(3, 8, device=DEVICE))
    residual.add(torch.ones(3, 8, device=DEVICE))
    torch.testing.assert_close(residual.norm(norm), norm(randn(3, 8) + 2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "head_dim"), [(6, 80), (3, 16)])
def test_heads_turn_and_others_stay(triton, monkeypatch, dtype, heads, head_dim):
    vectors = randn(4, heads + 2, head_dim, dtype=dtype)
    before, angles = vectors.clone(), randn(head_dim // 2, 4).T
    turned = rotate(vectors[:, :heads], angles.cos(), angles.sin())
    switch(monkeypatch, False)
    exact = rotate(before[:, :heads].double(), angles.double().cos(), angles.double().sin())
    assert_rounded_once(turned, exact, dtype)
    assert torch.equal(vectors[:, heads:], before[:, heads:])


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(("heads", "head_dim"), [(2, 80), (3, 16)])
@pytest.mark.parametrize("lengths", [[64, 64, 3], [1, 30]], ids=str)
def test_windows_attend_to_themselves(triton, monkeypatch, dtype, heads, head_dim, lengths):
    vectors, angles = randn(sum(lengths), 3 * heads, head_dim, dtype=dtype), randn(sum(lengths), head_dim // 2)
    cos, sin, packing = angles.cos(), angles.sin(), Packing(lengths, DEVICE)
    used = []
    from jina_embeddings_v4.engine import triton_kernels

    kernel = triton_kernels.attend_in_windows
    monkeypatch.setattr(triton_kernels, "attend_in_windows", lambda *given: used.append(kernel(*given)))
    found = rotate_and_attend(vectors.clone(), heads, cos, sin, packing)
    assert found.shape == (sum(lengths), heads * head_dim) and found.dtype == dtype and used

    switch(monkeypatch, False)
    exact = rotate_and_attend(vectors.double(), heads, cos.double(), sin.double(), packing)
    # A mean of values of size 1 to 4, whose weights, and what they come from, are rounded.
    assert (found.double() - exact).abs().max() < 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(("heads", "key_heads", "head_dim"), [(4, 2, 32), (3, 3, 64)])
@pytest.mark.parametrize("lengths", [[5, 1, 40], [3, 190, 128]], ids=str)
def test_tokens_attend_to_those_before_them(triton, monkeypatch, dtype, heads, key_heads, head_dim, lengths):
    tokens = sum(lengths)
    vectors, angles = randn(tokens, heads + 2 * key_heads, head_dim, dtype=dtype), randn(tokens, head_dim // 2)
    cos, sin, packing = angles.cos(), angles.sin(), Packing(lengths, DEVICE)
    wide = torch.full((sum(lengths), heads * head_dim + 5), -1.0, dtype=dtype, device=DEVICE)
    out = wide[:, : heads * head_dim]
    used = []
    from jina_embeddings_v4.engine import triton_kernels

    kernel = triton_kernels.attend_causally
    monkeypatch.setattr(triton_kernels, "attend_causally", lambda *given: used.append(kernel(*given)))
    assert rotate_and_attend(vectors.clone(), key_heads, cos, sin, packing, True, out) is out and used
    assert (wide[:, heads * head_dim :] == -1).all()

    switch(monkeypatch, False)
    exact = rotate_and_attend(vectors.double(), key_heads, cos.double(), sin.double(), packing, True)
    assert (out.double() - exact).abs().max() < 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("lengths", "head_dim", "is_causal"), [([65], 32, False), ([3, 4], 16, True)], ids=str)
def test_what_the_kernels_do_not_take_goes_the_plain_way(triton, monkeypatch, lengths, head_dim, is_causal):
    vectors, angles = randn(sum(lengths), 6, head_dim, dtype=torch.bfloat16), randn(sum(lengths), head_dim // 2)
    arguments = 2, angles.cos(), angles.sin(), Packing(lengths, DEVICE), is_causal
    found = rotate_and_attend(vectors.clone(), *arguments)
    switch(monkeypatch, False)
    exact = rotate_and_attend(vectors.double(), *arguments)
    assert (found.double() - exact).abs().max() < 16 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [24, 1500])
def test_gates_let_through(triton, dtype, width):
    gate_up = randn(3, 2 * width, dtype=dtype)
    gate, up = gate_up.double().chunk(2, dim=-1)
    wide = torch.full((3, width + 5), -1.0, dtype=dtype, device=DEVICE)
    for out in (None, wide[:, :width]):
        assert_rounded_once(silu_mul(gate_up, out), gate * gate.sigmoid() * up, dtype)
    assert (wide[:, width:] == -1).all()


def test_the_towers_give_the_same_with_them(triton, monkeypatch, checkpoint):
    """Whole passes, of texts and of an image, in float32 so that no rounding hides a difference. In it, windows attend
    the plain way.
    """
    from jina_embeddings_v4.engine.images import resize_image

    processor = Processor(checkpoint)
    image = torch.randint(256, (3, 60, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(51))
    batches = [
        [processor.image_tokens(resize_image(image, processor.image_settings))],
        [processor.text_tokens(text, "code") for text in ("a query", "")],
    ]
    found = []
    for fuses in (True, False):
        switch(monkeypatch, fuses)
        backbone = load_backbone(checkpoint, DEVICE, torch.float32)
        for batch in batches:
            visual = None if batch[0].image is None else backbone.encode_vision(batch, processor.image_settings)
            found.append(torch.cat(backbone.encode_tokens(batch, "code", visual), dim=-1))

    for fused, plain in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["right", "absent", "wrong"])
def test_kernels_are_tried_before_they_are_used(triton, monkeypatch, caplog, kind):
    from jina_embeddings_v4.engine import triton_kernels

    def fail(*_):
        raise RuntimeError("Failed to find C compiler")

    if kind != "right":
        monkeypatch.setattr(triton_kernels, "silu_mul", fail if kind == "absent" else lambda gate_up, out: out.zero_())
    assert kernels._fuses.__wrapped__(DEVICE) == (kind == "right")
    assert len(caplog.records) == (kind != "right") and (kind == "right" or "Triton's kernels" in caplog.text)


@pytest.mark.parametrize(("too_many", "found"), [(4, 3), (3, 2), (1, 0)])
def test_causal_attention_takes_what_shared_memory_holds(triton, monkeypatch, caplog, too_many, found):
    from jina_embeddings_v4.engine import triton_kernels

    kernel = triton_kernels.attend_causally

    def limited(*arguments):
        if arguments[-1] >= too_many:
            raise RuntimeError("out of resource: shared memory")
        kernel(*arguments)

    monkeypatch.setattr(triton_kernels, "attend_causally", limited)
    assert kernels.causal_stages.__wrapped__(DEVICE) == found
    assert len(caplog.records) == (not found) and (found or "out of resource" in caplog.text)


def test_causal_attention_that_is_wrong_is_not_used(triton, monkeypatch, caplog):
    from jina_embeddings_v4.engine import triton_kernels

    monkeypatch.setattr(triton_kernels, "attend_causally", lambda *arguments: arguments[5].zero_())
    assert kernels.causal_stages.__wrapped__(DEVICE) == 0 and "it is wrong" in caplog.text


def test_they_can_be_switched_off(monkeypatch):
    monkeypatch.delenv(kernels.PLAIN, raising=False)
    monkeypatch.setattr(kernels, "_fuses", lambda device: True)
    assert kernels.fuses(torch.device("cuda:0")) and not kernels.fuses(torch.device("cpu"))
    monkeypatch.setenv(kernels.PLAIN, "1")
    assert not kernels.fuses(torch.device("cuda:0"))
