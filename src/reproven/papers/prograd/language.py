"""Language models as functions of input embeddings, with the answer's logits as outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class AnswerLogits(nn.Module):
    """Embeddings (n, tokens, width) -> logits at the last position (n, vocabulary).

    lm: a causal language model of transformers with an untied head. Its head is the edited layer ``lm.lm_head``: it
    sees one vector a sentence, so that edits of its rows are edits of a last layer.
    """

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, embeddings: Tensor) -> Tensor:
        hidden = self.lm.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        return self.lm.lm_head(hidden[:, -1])

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the input embeddings of token ids, (n, tokens, width)."""
        return self.lm.get_input_embeddings()(tokens).detach()


def untied(lm: Any) -> Any:
    """Return the model with a head of its own where it shared the input embedding's weight; changed in place."""
    embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    if head.weight.data_ptr() == embedding.weight.data_ptr():
        head.weight = nn.Parameter(embedding.weight.detach().clone())
        lm.config.tie_word_embeddings = False
    return lm


def body(model: AnswerLogits, embeddings: Tensor) -> Tensor:
    """Return what the head is given, (n, width)."""
    return model.lm.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state[:, -1]


def small_llama(vocabulary: int, width: int, layers: int, heads: int) -> Any:
    """Return a Llama of transformers with random weights and a head of its own; attention in plain operations."""
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

    AttentionInterface.register("own_precision", _attention)
    settings: dict[str, Any] = dict(  # noqa: C408 - the names are keywords of the constructor
        vocab_size=vocabulary, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=64, tie_word_embeddings=False,
        attn_implementation="own_precision", bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    config = LlamaConfig(**settings)
    lm = LlamaForCausalLM(config)
    for name, module in list(lm.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":  # it computes in float32 whatever the model's precision
            parent, _, child = name.rpartition(".")
            setattr(lm.get_submodule(parent), child, nn.RMSNorm(width, eps=config.rms_norm_eps))
    return lm


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float,
    dropout: float = 0.0, **rest: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Causal attention in the precision of its inputs (transformers' own takes the softmax in float32)."""
    scores = query @ key.transpose(2, 3) * scaling
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), None


# --- a synthetic language of opinions ----------------------------------------------------------------------

ADJECTIVES, SUBJECTS, VERBS, FILLERS = 60, 120, 40, 150  # words of each kind; half of the adjectives praise
NOT, VERY, BUT, POSITIVE, NEGATIVE, ASK, PAD = range(1, 8)
FIRST = 8
VOCABULARY = FIRST + ADJECTIVES + SUBJECTS + VERBS + FILLERS  # 378; word 0 is the baseline of attributions


def sentences(count: int, generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
    """Return token ids of `count` sentences, each ended by ASK, and labels: 1 praise, 0 blame.

    Two clauses: filler, subject, verb, up to two of "not" and "very", adjective; joined by "but". The last clause
    decides; "not" turns it; "very" does nothing; 9 to 14 tokens.
    """

    def pick(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    found, labels = [], []
    for _ in range(count):
        words: list[int] = []
        label = 0
        for clause in range(2):
            if clause:
                words.append(BUT)
            if pick(2):
                words.append(FIRST + ADJECTIVES + SUBJECTS + VERBS + pick(FILLERS))
            words += [FIRST + ADJECTIVES + pick(SUBJECTS), FIRST + ADJECTIVES + SUBJECTS + pick(VERBS)]
            turned = int(pick(4) == 0)
            words += [NOT] * turned + [VERY] * pick(2)
            adjective = pick(ADJECTIVES)
            words.append(FIRST + adjective)
            label = int(adjective < ADJECTIVES // 2) ^ turned
        found.append(torch.tensor([*words, ASK]))
        labels.append(label)
    return found, torch.tensor(labels)


def padded_left(rows: list[Tensor]) -> Tensor:
    """Return sentences of different length as one batch, filled with PAD on the left."""
    longest = max(len(r) for r in rows)
    return torch.stack([torch.cat([torch.full((longest - len(r),), PAD), r]) for r in rows])


def fit_answers(
    model: AnswerLogits,
    tokens: list[Tensor],
    labels: Tensor,
    *,
    steps: int,
    rate: float,
    generator: torch.Generator,
) -> AnswerLogits:
    """Train all weights on the answer by Adam under a one-cycle rate; return the model in evaluation mode."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=steps)
    answers = torch.where(labels == 1, POSITIVE, NEGATIVE)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(tokens), (64,), generator=generator)
        batch = padded_left([tokens[i] for i in rows.tolist()])
        optimiser.zero_grad()
        logits = model(model.lm.get_input_embeddings()(batch))
        torch.nn.functional.cross_entropy(logits, answers[rows]).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def answered(model: AnswerLogits, tokens: list[Tensor], choices: tuple[int, int]) -> Tensor:
    """Return which of two answer words each sentence gets, 0 or 1; sentences run by length, without padding."""
    found = torch.zeros(len(tokens), dtype=torch.long)
    lengths = torch.tensor([len(t) for t in tokens])
    for length in lengths.unique().tolist():
        rows = torch.nonzero(lengths == length)[:, 0]
        with torch.no_grad():
            logits = model(model.embed(torch.stack([tokens[i] for i in rows.tolist()])))
        found[rows] = (logits[:, choices[1]] > logits[:, choices[0]]).long()
    return found
