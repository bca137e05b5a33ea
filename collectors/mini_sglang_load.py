"""Decode one static batch with Mini-SGLang; runs in the recorded Python, which needs nothing of traceql.

Generates twice: a warm-up, then the batch that is recorded. A step is one call of ``Engine.forward_batch``.
"""

from __future__ import annotations

import argparse
import random
import time
from importlib import import_module


def main() -> None:
    """Parse the options and decode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--input-len", type=int, required=True)
    parser.add_argument("--output-len", type=int, required=True)
    parser.add_argument("--attention-backend", default="auto")
    parser.add_argument("--cuda-graph-max-bs", type=int, required=True, help="0 switches graphs off")
    parser.add_argument("--dummy-weights", action="store_true")
    options = parser.parse_args()

    sampling_params = import_module("minisgl.core").SamplingParams
    llm = import_module("minisgl.llm").LLM(
        options.model,
        use_dummy_weight=options.dummy_weights,
        attention_backend=options.attention_backend,
        cuda_graph_max_bs=options.cuda_graph_max_bs,
        max_running_req=max(options.batch_size, 1),
        max_seq_len_override=options.input_len + options.output_len + 8,
    )
    draw = random.Random(0)
    for name, length in (("warm-up", 4), ("batch", options.output_len)):
        prompts = [[draw.randint(3, 9_999) for _ in range(options.input_len)] for _ in range(options.batch_size)]
        begin = time.perf_counter()
        llm.generate(prompts, sampling_params(temperature=0.0, ignore_eos=True, max_tokens=length))
        print(f"{name}: {length} tokens in {time.perf_counter() - begin:.3f} s", flush=True)


if __name__ == "__main__":
    main()
