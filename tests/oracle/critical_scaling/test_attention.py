"""Statistics and rescaling inside transformers' attention against explicit softmax attention on tiny models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reproven.harness.errors import UserError
from reproven.papers.critical_scaling import rules
from reproven.papers.critical_scaling.attention import Call, attending
from reproven.papers.critical_scaling.diagnose import Recorder, calibrate, diagnose
from reproven.papers.critical_scaling.rows import row_stats

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.4,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.4,
    )  # fmt: skip
    return transformers.BertModel(config).eval()


def ids(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 97, (1, n), generator=torch.Generator().manual_seed(seed))


def eager_gaps(model, tokens, **inputs):
    """Gaps from stored attention maps: g = log p_max - log p, (layers, heads, q, k)."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        maps = model(input_ids=tokens, output_attentions=True, **inputs).attentions
    model.set_attn_implementation(before)
    return torch.stack(maps)[:, 0].double().log()


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_recorded_statistics_are_those_of_stored_maps(name: str, request) -> None:
    """GQA with RoPE, and a bidirectional encoder."""
    model, tokens = request.getfixturevalue(name), ids(40)
    logs = eager_gaps(model, tokens)
    rows = torch.tensor([7, 20, 39])
    recorder = Recorder([rows])
    with torch.inference_mode(), attending(model, listener=recorder):
        model(input_ids=tokens)
    assert recorder.layers() == 2
    assert recorder.causal == (name == "llama")
    for layer in range(2):
        for first, sink in ((0, "all"), (1, "no_first")):
            want = row_stats(logs[layer][:, rows][..., first:])
            found = recorder.found[layer, 0, sink]
            np.testing.assert_allclose(found.scale, want.scale, rtol=2e-3, atol=0)  # maps in float32
            np.testing.assert_allclose(found.p_max, want.p_max, rtol=1e-4, atol=0)
            np.testing.assert_allclose(found.entropy, want.entropy, rtol=1e-4, atol=1e-5)
            assert (found.keys == want.keys).all()


def test_padding_is_no_key(bert) -> None:
    tokens = ids(30)
    mask = torch.ones_like(tokens)
    mask[:, 20:] = 0
    recorder = Recorder([torch.tensor([3, 11])])
    with torch.inference_mode(), attending(bert, listener=recorder):
        padded = bert(input_ids=tokens, attention_mask=mask).last_hidden_state[:, :20]
        alone = bert(input_ids=tokens[:, :20]).last_hidden_state
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)
    short = Recorder([torch.tensor([3, 11])])
    with torch.inference_mode(), attending(bert, listener=short):
        bert(input_ids=tokens[:, :20])
    recorder.found.clear()
    with torch.inference_mode(), attending(bert, listener=recorder):
        bert(input_ids=tokens, attention_mask=mask)
    for layer in range(2):
        got, want = recorder.found[layer, 0, "all"], short.found[layer, 0, "all"]
        assert (got.keys == 20).all()
        np.testing.assert_allclose(got.scale, want.scale, rtol=1e-3, atol=0)


def alibi(n: int, heads: int = 4) -> torch.Tensor:
    distance = (torch.arange(n)[:, None] - torch.arange(n)[None]).float()
    slopes = 2.0 ** -torch.arange(1, heads + 1)
    bias = -slopes[:, None, None] * distance
    return bias.masked_fill(distance < 0, torch.finfo(torch.float32).min)[None]


def test_additive_biases_belong_to_the_logits(llama) -> None:
    tokens, rows = ids(32, 2), torch.tensor([9, 31])
    bias = alibi(32)
    logs = eager_gaps(llama, tokens, attention_mask=bias)
    recorder = Recorder([rows])
    with torch.inference_mode(), attending(llama, listener=recorder):
        llama(input_ids=tokens, attention_mask=bias)
    for layer in range(2):
        want = row_stats(logs[layer][:, rows])
        got = recorder.found[layer, 0, "all"]
        np.testing.assert_allclose(got.scale, want.scale, rtol=2e-3, atol=0)
        assert (got.keys == torch.tensor([10, 32]).numpy()).all()


def explicit(model, tokens, factor, mask=None):
    """The model with logits multiplied by factor(n), written out through the eager path."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    def attend(module, query, key, value, attention_mask, scaling, **_):
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
        s = query @ key.transpose(2, 3) * scaling
        banned = torch.zeros_like(s, dtype=torch.bool)
        if attention_mask is not None:
            banned = (attention_mask < -1e30).expand_as(s)
            s = s + attention_mask.masked_fill(attention_mask < -1e30, 0.0)
        n = torch.arange(1, s.shape[2] + 1)
        s = (s * factor(n)[:, None]).masked_fill(banned, -torch.inf)
        return (torch.softmax(s, -1) @ value).transpose(1, 2), None

    AttentionInterface.register("explicit", attend)
    AttentionMaskInterface.register("explicit", eager_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("explicit")
    with torch.inference_mode():
        out = model(input_ids=tokens, attention_mask=mask).logits
    model.set_attn_implementation(before)
    return out


@pytest.mark.parametrize("bias", [None, alibi(48)], ids=["plain", "alibi"])
def test_place_rules_multiply_logits(llama, bias) -> None:
    tokens, known = ids(48, 3), rules.Calibration(train_length=12, read_length=48)
    rule = rules.QwenLogN()
    with torch.inference_mode(), attending(llama, scaler=rules.Rescaled(rule, known)):
        ours = llama(input_ids=tokens, attention_mask=bias).logits
    want = explicit(llama, tokens, lambda n: torch.clamp(n.log() / np.log(12), min=1.0), bias)
    torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-4)
    with torch.inference_mode():
        native = llama(input_ids=tokens, attention_mask=bias).logits
    torch.testing.assert_close(ours[:, :12], native[:, :12], rtol=1e-4, atol=1e-4)
    assert (ours[:, -1] - native[:, -1]).abs().max() > 1e-3


def test_no_rescaling_is_the_native_model_by_places_and_by_rows(llama) -> None:
    class Ones(rules.RowRule):
        def factor(self, logits, layer, known):
            return torch.ones(logits.shape[:-1])

    tokens, known = ids(300 % 64, 4), rules.Calibration(16, 64)
    with torch.inference_mode():
        native = llama(input_ids=tokens).logits
        for rule in (rules.NoRescaling(), Ones()):
            with attending(llama, scaler=rules.Rescaled(rule, known)):
                torch.testing.assert_close(llama(input_ids=tokens).logits, native, rtol=1e-4, atol=1e-4)
    assert llama.config._attn_implementation != "critical_scaling"  # restored


def test_soft_capping_and_position_bias_are_part_of_the_logits() -> None:
    g = torch.Generator().manual_seed(5)
    q, k = torch.randn(1, 2, 6, 4, generator=g), torch.randn(1, 2, 6, 4, generator=g)
    bias = torch.randn(1, 2, 6, 6, generator=g)
    rows = torch.tensor([1, 4])
    got = Call(0, q, k, None, 0.5, True, softcap=2.0, bias=bias).logits(rows, 5)
    want = torch.tanh(q[:, :, rows] @ k[:, :, :5].transpose(2, 3) * 0.5 / 2.0) * 2.0 + bias[:, :, rows, :5]
    torch.testing.assert_close(got[:, :, 1], want[:, :, 1], rtol=1e-5, atol=1e-6)
    assert torch.isneginf(got[:, :, 0, 2:]).all()


@pytest.mark.parametrize("mode", ["prefix", "subsample"])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_diagnose_has_every_head_at_every_length(name: str, mode: str, request) -> None:
    model = request.getfixturevalue(name)
    texts = [ids(64, s)[0] for s in range(3)] + [ids(20)[0]]
    found = diagnose(model, texts, [8, 16, 64], rows=4, mode=mode, seed=1)
    stats = found.stats["all"]
    assert stats.scale.shape == (3, 3, 2, 4, 4)
    assert found.skipped == (3,)
    if mode == "subsample" and name == "bert":
        assert (stats.keys == np.array([8, 16, 64])[None, :, None, None, None]).all()
    else:
        assert (stats.keys <= np.array([8, 16, 64])[None, :, None, None, None]).all()
        assert (stats.keys >= np.array([7, 14, 56])[None, :, None, None, None]).all()
    assert (found.stats["no_first"].keys == stats.keys - 1).all()
    assert stats.ok.all()
    assert (stats.p_max >= 1 - stats.scale - 1e-6).all()  # Theorem A
    again = diagnose(model, texts, [8, 16, 64], rows=4, mode=mode, seed=1)
    np.testing.assert_array_equal(again.stats["all"].scale, stats.scale)
    assert found.head_medians().shape == (3, 3, 2, 4)
    assert "rows left out: none; documents too short: 1" in found.summary()


def test_b_rule_and_entropy_target_from_a_calibration(llama) -> None:
    documents = [ids(64, s)[0] for s in range(4)]
    known = calibrate(llama, documents, 16, [32, 64], rows=8)
    assert known.scales.shape == (3, 2, 4)
    factor = rules.BRule().factor(np.array([4, 16, 32, 64]), 1, known)
    np.testing.assert_allclose(factor[:, :2], 1.0, rtol=1e-12, atol=0)
    np.testing.assert_allclose(factor[:, 3], known.scales[2, 1] / known.scales[0, 1], rtol=1e-12, atol=0)
    common = rules.BRule(shrink=0.0).factor(np.array([64]), 1, known)
    assert np.ptp(common) < 1e-12
    logits = torch.randn(1, 4, 5, 60, generator=torch.Generator().manual_seed(6))
    rule = rules.EntropyTarget(steps=30)
    beta = rule.factor(logits, 0, known)
    h = rules.entropy(logits * beta[..., None])
    goal = torch.as_tensor(known.entropies[0], dtype=h.dtype)[None, :, None].expand_as(h)
    met = (beta > 1) & (beta < rule.most * 0.999)
    assert met.any()
    torch.testing.assert_close(h[met], goal[met], rtol=1e-3, atol=1e-3)


def test_bad_models_and_lengths(llama) -> None:
    with pytest.raises(UserError, match="beyond the model's 64 positions"):
        diagnose(llama, [ids(80)[0]], [70])
    with pytest.raises(UserError, match="no attention hook"):
        diagnose(torch.nn.Linear(2, 2), [ids(8)[0]], [4])
    t5 = transformers.T5Config(vocab_size=97, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    bloom = transformers.BloomConfig(vocab_size=97, hidden_size=16, n_layer=1, n_head=2)
    for model in (transformers.T5EncoderModel(t5), transformers.BloomModel(bloom)):
        if model._can_set_attn_implementation():
            continue
        with pytest.raises(UserError, match="no attention hook"):
            diagnose(model.eval(), [ids(8)[0]], [4])
    with pytest.raises(UserError, match="no text has 16 tokens"):
        diagnose(llama, [ids(8)[0]], [16])
    with pytest.raises(UserError, match="at least two keys"):
        diagnose(llama, [ids(8)[0]], [1, 8])
    with pytest.raises(UserError, match="is not one of prefix, subsample"):
        diagnose(llama, [ids(8)[0]], [8], mode="suffix")
    with pytest.raises(UserError, match="pass tokenizer="):
        diagnose(llama, ["a text"], [8])


def test_nan_logits_are_counted_not_dropped(llama) -> None:
    broken = transformers.LlamaForCausalLM(llama.config).eval()
    with torch.no_grad():
        broken.model.layers[1].self_attn.q_proj.weight[0, 0] = torch.nan
    found = diagnose(broken, [ids(32, 1)[0]], [16, 32], rows=4)
    assert found.excluded()["all"]["NaN or infinite logits"] == 2 * 4  # one head of the second layer
    assert found.stats["all"].status.size == 2 * 2 * 4 * 4
    assert np.isnan(found.head_medians()[0, :, 1, 0]).all()
    assert "NaN or infinite logits" in found.summary()
