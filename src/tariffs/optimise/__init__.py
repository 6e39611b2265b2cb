"""What price to ask, given an elasticity that is known only so well: `rule` for one product alone, `ladder` for
products that must stay in order."""
