"""Causal attention within the segments of a pack, its backward pass written out: no mask over the pack, no padding.

Query heads that share a key head are one product; blocks of queries see no key after their last, so that long segments
cost half; scores above the diagonal never leave a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "tuneline_segments"
BLOCK = 256
"""Queries at a time: scores of a block stay in the processor's cache."""
KEPT = 512
"""Segments up to this many tokens keep their probabilities for the backward pass; longer ones compute them again."""


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, *,
    lengths: tuple[int, ...], shared: int = 0, scaling: float | None = None, dropout: float = 0.0, **_: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """Shapes: query (1, heads, tokens, dim), key and value with fewer heads where queries share them; the result is
    (1, tokens, heads, dim), as transformers expects.

    `lengths` lays the tokens out in segments. The first `shared` tokens, a segment of their own, are seen by all.
    Keys may begin with tokens that have no query (a prefix): those, too, are seen by all.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if dropout and module.training:
        return _plain(query, key, value, lengths, shared, scale, dropout), None
    if query.is_cuda:
        return _plain(query, key, value, lengths, shared, scale, 0.0), None
    rows = [states[0].transpose(0, 1) for states in (query, key, value)]
    return _Segments.apply(*rows, lengths, shared, scale)[None], None


AttentionInterface.register(NAME, attend)

Part = tuple[slice, list[slice]]
"""A block of queries, and the places of the keys that it sees; the last key place ends where the block does."""


def _blocks(lengths: tuple[int, ...], shared: int, extra: int, size: int) -> Iterator[Part]:
    """Every block of queries; `extra` keys come before the first query's own."""
    start = 0
    for length in lengths:
        common = extra + (shared if start else 0)
        for first in range(start, start + length, size):
            last = min(first + size, start + length)
            before = [slice(0, common)] if common else []
            yield slice(first, last), [*before, slice(extra + start, extra + last)]
        start += length


def _plain(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], shared: int, scale: float, dropout: float
) -> Tensor:
    """The same by torch's own kernels and autograd: for accelerators, and where attention has dropout."""
    extra, parts = key.shape[2] - query.shape[2], list[Tensor]()
    grouped = query.shape[1] != key.shape[1]
    for places, seen in _blocks(lengths, shared, extra, max(lengths)):
        q = query[:, :, places]
        k, v = (torch.cat([states[:, :, place] for place in seen], 2) for states in (key, value))
        plain = k.shape[2] == q.shape[2]
        mask = None if plain else _visible(q.shape[2], k.shape[2], q.device)
        parts.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=plain, scale=scale, dropout_p=dropout, enable_gqa=grouped
            )
        )
    return torch.cat(parts, 2).transpose(1, 2)


def _visible(queries: int, keys: int, device: torch.device) -> Tensor:
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


class _Segments(torch.autograd.Function):
    """Rows of shape (tokens, heads, dim). dS = P (dP - rowsum(dP P)), as Dao et al. 2022, arXiv 2205.14135, appendix B."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], shared: int, scale: float
    ) -> Tensor:
        out = torch.empty(query.shape, dtype=query.dtype)
        kept: list[Tensor | None] = []
        long = max(lengths) > KEPT
        for places, seen in _blocks(lengths, shared, len(key) - len(query), BLOCK):
            weights = _weights(_fold(query[places], key.shape[1]), _seen(key, seen), places, scale)
            folded = torch.bmm(weights, _seen(value, seen).transpose(0, 1))
            out[places] = _unfold(folded, out[places].shape)
            kept.append(None if long else weights)
        ctx.layout = (lengths, shared, scale)
        ctx.save_for_backward(query, key, value, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        query, key, value, *weights_kept = ctx.saved_tensors
        lengths, shared, scale = ctx.layout
        d_query = torch.empty(query.shape, dtype=query.dtype)
        d_key, d_value = torch.zeros(key.shape, dtype=key.dtype), torch.zeros(value.shape, dtype=value.dtype)
        blocks = _blocks(lengths, shared, len(key) - len(query), BLOCK)
        for (places, seen), kept in zip(blocks, weights_kept, strict=True):
            q, k, v = _fold(query[places], key.shape[1]), _seen(key, seen), _seen(value, seen)
            weights = _weights(q, k, places, scale) if kept is None else kept
            d_out = _fold(gradient[places], key.shape[1])
            _add(d_value, seen, torch.bmm(weights.transpose(1, 2), d_out))
            d_weights = torch.bmm(d_out, v.permute(1, 2, 0))
            d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(scale)
            d_query[places] = _unfold(torch.bmm(d_scores, k.transpose(0, 1)), query[places].shape)
            _add(d_key, seen, torch.bmm(d_scores.transpose(1, 2), q))
        return d_query, d_key, d_value, None, None, None


def _fold(rows: Tensor, key_heads: int) -> Tensor:
    """(n, heads, dim) -> (key heads, n * group, dim): the queries of one key head, a token's group side by side."""
    n, heads, dim = rows.shape
    return rows.reshape(n, key_heads, heads // key_heads, dim).transpose(0, 1).reshape(key_heads, -1, dim)


def _unfold(folded: Tensor, shape: torch.Size) -> Tensor:
    n, heads, dim = shape
    return folded.view(len(folded), n, heads // len(folded), dim).transpose(0, 1).reshape(shape)


def _seen(rows: Tensor, seen: list[slice]) -> Tensor:
    return rows[seen[0]] if len(seen) == 1 else torch.cat([rows[place] for place in seen])


def _add(into: Tensor, seen: list[slice], gradient: Tensor) -> None:
    """Gradients of shape (key heads, keys, dim), back to where the keys came from."""
    parts = gradient.transpose(0, 1).split([place.stop - place.start for place in seen])
    for place, part in zip(seen, parts, strict=True):
        into[place] += part


def _weights(query: Tensor, key: Tensor, places: slice, scale: float) -> Tensor:
    """Attention probabilities of shape (key heads, n * group, keys); only the last n keys can lie in a query's future."""
    n, keys = places.stop - places.start, len(key)
    scores = torch.bmm(query, key.permute(1, 2, 0)).mul_(scale)
    scores[:, :, keys - n :] += _future(query.shape[1] // n, scores.dtype)[: query.shape[1], :n]
    return torch.softmax(scores, -1)


@lru_cache
def _future(group: int, dtype: torch.dtype) -> Tensor:
    """0 where a query may look, minus infinity where it may not: shape (BLOCK * group, BLOCK); a corner serves fewer."""
    hidden = torch.ones(BLOCK, BLOCK, dtype=torch.bool).triu(1)
    return torch.zeros(BLOCK, BLOCK, dtype=dtype).masked_fill_(hidden, float("-inf")).repeat_interleave(group, 0)


def forget() -> None:
    """Drop the tensors that are kept from call to call: they belong to the way of computing of the first."""
    _future.cache_clear()
