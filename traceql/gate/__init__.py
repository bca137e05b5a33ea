"""The pre-merge gate: findings against a baseline, budgets against metrics, and the formats CI systems read."""
