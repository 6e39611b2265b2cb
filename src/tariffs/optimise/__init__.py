"""The best price under an uncertain elasticity: `rule` for one product alone, `ladder`, `fairness`
and `smooth` for prices that depend on one another, `portfolio` for limits on the whole table."""
