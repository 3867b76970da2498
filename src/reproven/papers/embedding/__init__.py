"""Embedding principle of homogeneous networks: the splitting map T, trained pairs, certificates.

>>> from reproven.papers.embedding import split
"""

from reproven.papers.embedding.comparators import (
    compatible_embedding,
    net2net,
    null_unit,
    scaled_split,
    splitting_2021,
)
from reproven.papers.embedding.condensation import ray_distance
from reproven.papers.embedding.extensions import GatedUnits, SelfAttention, split_attention, split_gated
from reproven.papers.embedding.kkt import Certificate, certificate
from reproven.papers.embedding.optimisers import AdaptiveRule, GradientRule
from reproven.papers.embedding.splitting import Embedding, embed_optimiser_state, split, split_layer
from reproven.papers.embedding.stacked import Batch, StackedNet, stack_embeddings, stack_models
from reproven.papers.embedding.trajectory import PairRecord, train_pairs
from reproven.papers.embedding.trajectory_reference import train_pair
from reproven.papers.embedding.transverse import growth_rates, transverse_hessian, transverse_matrix

__all__ = [
    "AdaptiveRule",
    "Batch",
    "Certificate",
    "Embedding",
    "GatedUnits",
    "GradientRule",
    "PairRecord",
    "SelfAttention",
    "StackedNet",
    "certificate",
    "compatible_embedding",
    "embed_optimiser_state",
    "growth_rates",
    "net2net",
    "null_unit",
    "ray_distance",
    "scaled_split",
    "split",
    "split_attention",
    "split_gated",
    "split_layer",
    "splitting_2021",
    "stack_embeddings",
    "stack_models",
    "train_pair",
    "train_pairs",
    "transverse_hessian",
    "transverse_matrix",
]
