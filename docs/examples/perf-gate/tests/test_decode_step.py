"""The same gates as a test, for those who run their checks with pytest."""


def test_the_step_is_one_replay(traceql_budget):
    traceql_budget("captures/decode.trace.json.gz", "step.graph_launches", kind="decode", max=1)


def test_the_budgets_of_traceql_toml_hold(traceql_budget):
    traceql_budget("captures/decode.trace.json.gz")
