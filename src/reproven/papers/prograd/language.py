"""Language models as functions of input embeddings, with the answer's logits as outputs."""

from __future__ import annotations

from typing import Any

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
