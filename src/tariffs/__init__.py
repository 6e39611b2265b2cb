"""Tariffs: prices for a mobile operator's bundles and voice discounts, one unit of work at a time.

The packages and modules, from bottom to top (no import runs upwards):
  columns        the types of the rows that a work function receives
  demand/        how volume responds to price: the pooled prior, then each unit's own elasticity
  optimise/      the best price under an elasticity that is known with an error
  pricing/       from a unit's weeks to its price, and the limits across units:
                 estimation, price_row, bundles, voice, locations, hourly, portfolio_limits, totals
  contracts      the contracts of the sources and of the price table, and the declared repairs
  job            the declaration of the job: sources, models, publication
  data_quality/  every rejected, dropped and repaired row of a run, with its money
  evaluation/    a finished run compared with the truth: elasticities, promised gains, policies
  release/       from a published price table to the table that charging uses
  cli            the command `tariffs`
  synthetic/     the same source tables with known truth and known dirt; demo uses it
"""
