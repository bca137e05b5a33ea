"""
## What it does
Reads the server's log or metrics beside the trace and reports a prefix cache that finds few of the prompts' tokens
although prompts share a prefix.

## Why it matters
Tokens found in the cache need no prefill: that is time to first token, and GPU time taken from running decodes. System
prompts, few-shot examples and earlier turns of a conversation are the same for many requests.

## How it is measured
SGLang logs the new and the cached tokens of every prefill batch; vLLM a hit rate; both export counters as Prometheus
metrics (`.log`, `.prom` and `…metrics.txt` files in the trace's folder are read, the fullest account counts). Hit rate
= cached over all prompt tokens. The rule fires under `min-hit-pct`, from `min-prompt-count` prompt tokens on, when hits
show that prompts do share prefixes: `min-shared-count` cached tokens in the mean of the batches that had any. All prompts
share their first token or two (beginning of text, a role's marker). Without such hits nothing tells whether they share
more, and the rule passes.

What the hits saved is the cached tokens times the median GPU time of a prefill token in the trace, where it holds prefills.

There is no estimate: how much more the cache could find depends on the prompts.

`min-hit-pct` of 20, `min-prompt-count` of 1000 and `min-shared-count` of 16 are a judgement: chats and shared system
prompts reach well over half, and a few short prompts tell nothing. 65,566 random prompt tokens of a load generator had one
hit, of one token.

## Known problems
The log covers the server's life, the trace a moment of it. The first request with a prefix always misses; a short run
shows a lower rate than a long one.

## How to fix
Put what requests share at the beginning of the prompt, and what differs (dates, ids) at its end. Give the KV cache more
memory where entries are evicted. Route requests of one conversation to one replica (cache-aware load balancing).

## References
Zheng et al., "SGLang: Efficient Execution of Structured Language Model Programs" (RadixAttention), 2024; vLLM
documentation, automatic prefix caching.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from traceql.derived.steps import steps
from traceql.finding import Finding, Severity
from traceql.rule import NotApplicableError, Rule, option
from traceql.server_logs import PrefixCache, logs_beside
from traceql.trace import Trace
from traceql.wording import percent


class PrefixCacheRule(Rule):
    code = "TQL605"
    name = "prefix-cache"
    summary = "The prefix cache finds few tokens although prompts share prefixes."
    severity = Severity.WARNING
    needs = ("steps",)

    @dataclass(frozen=True)
    class Options:
        min_hit_pct: float = option(20.0, "share of the prompt tokens that should come from the cache")
        min_prompt_count: int = option(1000, "prompt tokens below which the rate says nothing")
        min_shared_count: int = option(16, "cached tokens of a batch with hits below which prompts share no prefix")

    def check(self, trace: Trace, options: Options) -> Iterator[Finding]:
        logs = logs_beside(trace.path)
        if not logs:
            raise NotApplicableError("no server log or metrics beside the trace that tell of a prefix cache")
        caches = [log.cache for log in logs if log.cache is not None]
        if logs[0].disabled:
            raise NotApplicableError("the server ran with its prefix cache off")
        if not caches:
            raise NotApplicableError("the server's log lists no prefill batches")
        cache = caches[0]
        enough = cache.prompt_tokens is None or cache.prompt_tokens >= options.min_prompt_count
        if enough and _shared(cache, options.min_shared_count) and 0 < cache.hit_pct < options.min_hit_pct:
            yield self._finding(trace, cache)

    def _finding(self, trace: Trace, cache: PrefixCache) -> Finding:
        cost = _prefill_us_per_token(trace)
        counted = "" if cache.prompt_tokens is None else f" of {cache.prompt_tokens:,} prompt tokens"
        saved = None if cost is None or cache.cached_tokens is None else cost * cache.cached_tokens / 1000
        left = (
            None if cost is None or cache.prompt_tokens is None else cost * cache.prompt_tokens / 1000 - (saved or 0.0)
        )
        return self.finding(
            f"The prefix cache finds {percent(cache.hit_pct)}{counted} ({cache.source}), although prompts share prefixes"
            + (f": {cache.batches_with_hits} of {cache.batches} prefill batches had hits." if cache.batches else "."),
            key=("server",),
            subject="prefix cache",
            certainty="exact",
            evidence={
                "hit_pct": cache.hit_pct,
                "prompt_tokens": cache.prompt_tokens,
                "cached_tokens": cache.cached_tokens,
                "prefill_batches": cache.batches,
                "batches_with_hits": cache.batches_with_hits,
                "prefill_us_per_token": cost,
                "prefill_saved_ms": saved,
                "prefill_left_ms": left,
            },
            advice=[
                "Put what requests share (system prompt, examples) first and what differs (dates, ids) last.",
                "Give the KV cache more memory, and route requests of one conversation to one replica.",
            ],
        )


def _shared(cache: PrefixCache, least: int) -> bool:
    """Whether the hits show prompts with a common prefix; True where the source does not tell how long they were."""
    if cache.cached_tokens is None or not cache.batches_with_hits:
        return True
    return cache.cached_tokens >= least * cache.batches_with_hits


def _prefill_us_per_token(trace: Trace) -> float | None:
    """Median GPU time of a token in the trace's prefills; None without any."""
    prefills = steps(trace).filter((pl.col("kind") == "prefill") & (pl.col("tokens") > 0) & (pl.col("gpu_busy_ns") > 0))
    median = prefills.select((pl.col("gpu_busy_ns") / pl.col("tokens")).median()).item()
    return None if median is None else float(median) / 1000
