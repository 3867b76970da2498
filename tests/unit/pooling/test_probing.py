"""Feature store, probing arms, tasks and their errors, on tiny models with random weights."""

import numpy as np
import pytest
import torch

from reproven.harness.context import Context
from reproven.harness.errors import Blocked, UserError
from reproven.papers.pooling import (
    Avg,
    Last,
    PoolingLayer,
    QueryAttention,
    Sum,
    Task,
    WAvg,
    backbones,
    dense,
    draw_seeds,
    encode_texts,
    fit_fixed,
    fit_learned,
    fit_ridge,
    pooled,
    ragged,
    stored,
    tasks,
)
from reproven.papers.pooling import paper_scale as paper
from reproven.papers.pooling.features import length_groups
from reproven.papers.pooling.pairs import (
    PairTask,
    fit_fixed_pairs,
    fit_learned_pairs,
    standardised_similarity,
)


class Words:
    """A tokeniser of words by their length, with 1 in front of and 2 behind each text."""

    def __call__(self, texts, add_special_tokens=True, truncation=False, max_length=None):
        rows = [[3 + len(w) for w in t.split()] for t in texts]
        if add_special_tokens:
            rows = [[1, *r[: (max_length or 99) - 2], 2] for r in rows]
        return {"input_ids": rows}


@pytest.fixture(scope="module")
def bert():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    return transformers.BertModel(config, add_pooling_layer=False).eval()


def toy(name="toy", inputs=120, n=6, d=8, ragged_lengths=False, kind="classes", seed=0):
    """Inputs whose last token's first channel decides the class."""
    rng = np.random.default_rng(seed)
    rows = [
        rng.normal(size=(rng.integers(2, n + 1) if ragged_lengths else n, d)).astype(np.float32)
        for _ in range(inputs)
    ]
    y = torch.tensor([int(r[-1, 0] > 0) for r in rows])
    targets = {
        "classes": y,
        "values": torch.tensor(np.stack([r[-1, :2] for r in rows])),
        "pixels": torch.stack([y, 1 - y], 1).float(),
    }
    cut = 2 * inputs // 3
    return Task(
        name, "local", kind, ragged(rows), targets[kind], np.arange(cut), np.arange(cut, inputs), classes=2
    )


def test_texts_are_encoded_as_one_by_one(bert):
    texts = ["one three five", "a", "some longer text with more words in it than any"]
    tokens = encode_texts(bert, Words(), texts, max_tokens=8, batch_tokens=16)
    assert tokens.lengths.tolist() == [5, 3, 8]
    for i, text in enumerate(texts):
        ids = torch.tensor(Words()([text], max_length=8)["input_ids"])
        wanted = bert(ids).last_hidden_state[0].detach()
        got, mask = tokens.batch(np.array([i]))
        assert mask is None
        torch.testing.assert_close(got[0], wanted, rtol=2e-3, atol=2e-3)  # stored in half precision


def test_a_layer_can_be_tapped_and_a_missing_one_is_named(bert):
    tapped = encode_texts(bert, Words(), ["a b"], max_tokens=8, layer="embeddings")
    assert not np.allclose(tapped.values, encode_texts(bert, Words(), ["a b"], max_tokens=8).values)
    with pytest.raises(UserError, match=r"no layer 'embedings' \(did you mean 'embeddings'\?\)"):
        encode_texts(bert, Words(), ["a b"], max_tokens=8, layer="embedings")


def test_texts_without_tokens_and_no_texts_are_one_clear_line(bert):
    with pytest.raises(UserError, match=r"text 1 \(' '\) has no tokens"):
        encode_texts(bert, Words(), ["a", " "], max_tokens=8)
    with pytest.raises(UserError, match="no text to encode"):
        encode_texts(bert, Words(), [], max_tokens=8)
    with pytest.raises(ValueError, match="at least one token"):
        ragged([np.zeros((0, 3))])


def test_a_store_makes_an_entry_once_and_again_when_it_is_torn(tmp_path):
    made = []

    def make():
        made.append(1)
        return ragged([np.ones((2, 3), np.float16), np.zeros((1, 3), np.float16)])

    for _ in range(2):
        tokens, record = stored({"model": "m"}, make, tmp_path)
    assert len(made) == 1
    assert record["specification"]["model"] == "m"
    assert tokens.lengths.tolist() == [2, 1]
    stored({"model": "other"}, make, tmp_path)
    assert len(made) == 2
    del tokens
    (file,) = [p for p in tmp_path.glob("*/values.npy") if '"m"' in (p.parent / "meta.json").read_text()]
    file.write_bytes(b"torn")
    stored({"model": "m"}, make, tmp_path)
    assert len(made) == 3


def test_batches_pad_on_either_side_and_groups_hold_every_input_once():
    tokens = ragged([np.full((k, 2), k, np.float16) for k in (1, 3, 2)])
    left, mask = tokens.batch(np.array([0, 1]), left=True)
    assert mask.tolist() == [[False, False, True], [True] * 3]
    assert left[0].tolist() == [[0, 0], [0, 0], [1, 1]]
    groups = length_groups(np.array([5, 1, 9, 2, 2, 30]), 10)
    assert sorted(i for g in groups for i in g) == list(range(6))
    assert all(len(g) == 1 or len(g) * max([5, 1, 9, 2, 2, 30][i] for i in g) <= 10 for g in groups)
    shuffled = tokens.permuted(np.random.default_rng(0))
    assert shuffled.values.tolist() == tokens.values.tolist()  # all tokens of an input are alike here


@pytest.mark.parametrize("kind", ["classes", "values", "pixels"])
def test_seeds_in_one_batch_train_as_each_alone(kind):
    task = toy(kind=kind, ragged_lengths=True)
    seeds = draw_seeds(task, [3, 4])
    for fit in (
        lambda s: fit_learned(task, QueryAttention(), s, epochs=2, batch=16),
        lambda s: fit_fixed(
            task, *(pooled(Avg(), task.tokens, i) for i in (task.pool, task.test)), s, epochs=2, batch=16
        ),
    ):
        both = fit(seeds).test.flatten()
        alone = [fit(seeds.only(i)).test.flatten() for i in range(2)]
        torch.testing.assert_close(both, torch.cat(alone), rtol=1e-4, atol=1e-4)  # order of float32 sums


def test_several_poolings_in_one_batch_train_as_each_alone():
    task = toy()
    seeds = draw_seeds(task, [0])
    parts = [[pooled(p, task.tokens, i) for i in (task.pool, task.test)] for p in (Avg(), Last())]
    both = fit_fixed(task, *(torch.cat([p[k] for p in parts]) for k in (0, 1)), seeds, epochs=3)
    for place, part in enumerate(parts):
        alone = fit_fixed(task, *part, seeds, epochs=3)
        torch.testing.assert_close(both.test[place], alone.test[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(both.head.weight[place], alone.head.weight[0], rtol=1e-4, atol=1e-5)


def test_ridge_is_scikit_learns_at_the_strength_it_chose():
    linear = pytest.importorskip("sklearn.linear_model")
    task = toy(kind="values")
    seeds = draw_seeds(task, [0])
    x, outer = (pooled(Avg(), task.tokens, i)[0] for i in (task.pool, task.test))
    ours = fit_ridge(task, x, outer, seeds, strengths=[0.05])
    mean, sd = x.mean(0), x.std(0)
    members = seeds.members[0].numpy()
    fitted = linear.Ridge(alpha=0.05 * members.sum()).fit(
        ((x - mean) / sd).numpy()[members], task.targets.numpy()[task.pool][members]
    )
    wanted = ((fitted.predict(((outer - mean) / sd).numpy()) - task.targets.numpy()[task.test]) ** 2).mean()
    assert float(ours.test[0]) == pytest.approx(wanted, rel=1e-8)


def test_a_local_task_needs_the_last_token_and_w_avg_finds_it():
    task = toy(inputs=600)
    seeds = draw_seeds(task, [0, 1])
    scores = {}
    for pooling in (Avg(), Sum(), Last()):
        x, outer = (pooled(pooling, task.tokens, i)[0] for i in (task.pool, task.test))
        scores[type(pooling).__name__] = float(fit_ridge(task, x, outer, seeds).test.mean())
    assert scores["Last"] > 0.9
    assert scores["Avg"] < 0.75
    assert scores["Sum"] == scores["Avg"]
    found = fit_learned(task, WAvg(), seeds, epochs=30, batch=32, lr=0.05)
    assert float(found.test.mean()) > 0.9
    assert found.parameters["w"].argmax(dim=1).tolist() == [0, 0]  # counted from the end


def test_pairs_train_and_rank(bert):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 8))
    label = rng.integers(4, size=80)
    tokens = dense((centres[label][:, None] + 0.1 * rng.normal(size=(80, 3, 8))).astype(np.float32))
    left, right = rng.integers(80, size=(2, 200))
    target = torch.tensor((label[left] == label[right]).astype(np.float32))
    task = PairTask("pairs", "mixed", tokens, left, right, target, np.arange(150), np.arange(150, 200))
    x = pooled(Avg(), tokens, np.arange(80))
    assert float(fit_fixed_pairs(task, x, [0], width=8, epochs=20).test) > 0.6
    assert float(fit_learned_pairs(task, QueryAttention(), [0], width=8, epochs=20).test) > 0.6
    assert standardised_similarity(task, x[0]) > 0.6


def test_a_pooling_layer_trains():
    layer = PoolingLayer(WAvg(), d=4, n=3)
    layer(torch.randn(2, 3, 4)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert len(list(PoolingLayer(Avg(), 4, 3).parameters())) == 0


def test_wrong_tasks_are_refused():
    with pytest.raises(ValueError, match="is not one of classes"):
        toy(kind="classes").__class__(
            "t", "local", "words", toy().tokens, toy().targets, np.arange(80), np.arange(80, 120)
        )
    with pytest.raises(ValueError, match="are too few"):
        toy(inputs=6)


def test_stratified_keeps_proportions():
    labels = [0] * 80 + [1] * 20
    chosen = tasks.stratified(labels, 50, np.random.default_rng(0))
    assert len(set(chosen)) == 50
    assert np.asarray(labels)[chosen].sum() == 10
    assert tasks.stratified(labels, 500, np.random.default_rng(0)).tolist() == list(range(100))


def test_windows_of_a_long_series_never_straddle_the_split_and_naive_forecasts_know_the_period():
    t = np.arange(2000)
    gap = np.arange(8, 16)
    cut = tasks.long_windows(np.sin(2 * np.pi * t / 25), length=64, horizon=16, count=60, gap=gap)
    assert cut.period == 25
    np.testing.assert_allclose(cut.seasonal, cut.futures, atol=1e-5)
    np.testing.assert_allclose(cut.filled, cut.inputs[:, gap], atol=1e-5)
    assert 0 < cut.train.sum() < len(cut.train)
    short = tasks.cut_series(np.random.default_rng(0).normal(size=(3, 1460)), 8)
    assert short.shape[1] % 8 == 0
    assert short.shape[1] <= 8 * tasks.LONGEST


def test_small_backbones_learn_and_are_kept(tmp_path):
    line = np.tile(backbones.characters(["abc def "]), 60)
    losses = []
    for _ in range(2):
        model = backbones.trained(
            {"seed": 0, "kind": "test"},
            lambda: backbones.CharLM(d=16, layers=1, heads=2, context=8),
            lambda m: backbones.train_char_lm(m, line, steps=100, batch=16, length=8, seed=0),
            tmp_path,
        )
        losses.append(float(model.loss(torch.from_numpy(line[:80].reshape(10, 8)))))
    assert losses[0] == losses[1] < 2.0
    assert len(list(tmp_path.glob("*.pt"))) == 1
    assert backbones.states(model, torch.from_numpy(line[:16].reshape(2, 8))).shape == (2, 8, 16)


def test_patches_are_in_the_order_of_the_tokens():
    vit = backbones.SmallViT(d=16, layers=1, heads=2)
    image = torch.arange(784.0).view(1, 28, 28)
    assert torch.equal(vit.patches(image)[0, 8], image[0, 4:8, 4:8].flatten())
    plain = vit(image / 784)
    masked = vit(image / 784, torch.arange(49)[None] == 3)
    assert plain.shape == (1, 50, 16)
    assert not torch.allclose(plain, masked)


# ---------------------------------------------------------------- the paper's own data, on small files


def test_what_is_absent_unpublished_or_undefined_is_blocked_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("REPROVEN_CACHE", str(tmp_path))
    ctx = Context(methods={"pool_avg": Avg()})
    for backbone, task, reason in (
        ("gpt2", "stsb", "published no weights"),
        ("vit_small", "imagenet100", "not stated"),
        ("vit_small", "cub200", "place it under"),
        ("bert", "hellaswag", "not stated"),
        ("moment_small", "ecg200", "place it under"),
        ("moment_small", "impute_etth1", "mask ratio"),
        ("moment_small", "forecast_etth1", "place it under"),
    ):
        with pytest.raises(Blocked, match=reason):
            paper.table(ctx, backbone=backbone, task=task, seed=[0], epochs=1, batch=8)


def test_ucr_and_csv_files_are_read_as_published(tmp_path):
    for part, rows in (("TRAIN", "1\t0.5\t1.5\n-1\t2\t3\n"), ("TEST", "1\t7\t8\n")):
        (tmp_path / f"ECG200_{part}.tsv").write_text(rows)
    x, y, count = paper.ucr(tmp_path, "ecg200")
    assert (x.shape, y.tolist(), count) == ((3, 2), [1, 0, 1], 2)
    (tmp_path / "ETTh1.csv").write_text("date,HUFL,OT\n2016,1,30.5\n2016,2,31\n")
    assert paper.csv_channel(tmp_path / "ETTh1.csv", "OT").tolist() == [30.5, 31]
    with pytest.raises(Blocked, match="no column 'OX'"):
        paper.csv_channel(tmp_path / "ETTh1.csv", "OX")
    windows, futures, count = paper.forecast_windows(np.arange(4000.0), length=64, horizon=16)
    assert 0 < count < len(windows)
    assert np.allclose(np.diff(windows[:, -1:]), 0) or windows.shape[1] == 64
    assert np.allclose(futures[:, 0] - windows[:, -1], futures[0, 1] - futures[0, 0], atol=1e-4)


def test_moment_pads_on_the_left_and_keeps_real_patches():
    seen = []

    def encode(x, mask):
        seen.append((x, mask))
        return x.unflatten(1, (-1, 8))

    tokens = paper.moment_tokens(encode, np.arange(1, 97, dtype=np.float32)[None], batch=1)
    assert tokens.lengths.tolist() == [12]
    assert tokens.values[0].tolist() == list(range(1, 9))
    assert int(seen[0][1].sum()) == 96


def test_images_flow_from_torchvisions_folders_to_printed_cells(tmp_path, monkeypatch):
    from PIL import Image

    timm = pytest.importorskip("timm")
    monkeypatch.setenv("REPROVEN_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 3)):
        for c in ("a", "b"):
            folder = tmp_path / "paper" / "cub200" / part / c
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=16, num_heads=2).eval()
    transform = lambda image: torch.from_numpy(np.array(image.resize((32, 32)))).permute(2, 0, 1) / 255.0  # noqa: E731
    monkeypatch.setattr(paper, "vit", lambda name: (model, transform))
    ctx = Context(methods={"pool_avg": Avg(), "pool_w_avg": WAvg()})
    paper.table(ctx, backbone="vit_small", task="cub200", seed=[0, 1], epochs=1, batch=8)
    assert [s.metric for s in ctx.series] == ["printed", "printed"]
    assert all(0 <= v <= 100 for s in ctx.series for v in s.values)


def test_fgsm_counts_initially_correct_inputs_alone():
    x = torch.tensor([[1.0], [0.2], [-1.0]])
    y = torch.tensor([1, 1, 1])  # the third is wrong from the start
    function = lambda z: torch.cat([-z, z], dim=1)  # noqa: E731
    assert paper.fgsm_success(function, x, y, torch.tensor(0.5)) == 0.5
    with pytest.raises(ValueError, match="no input is initially correct"):
        paper.fgsm_success(function, x[2:], y[2:], torch.tensor(0.5))
