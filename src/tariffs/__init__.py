"""Tariffs: prices for a mobile operator's bundles and voice discounts, one unit of work at a time.

The rooms, from the ground up (no import runs upwards):
  rows        the shape of what a work function is handed
  demand/     how volume answers to price: the pooled prior, then every unit's own elasticity
  optimise/   what price to ask, given an elasticity that is known only so well
  observe     from a unit's columns to its demand: what bundles and voice do alike
  priced      what is said of a unit's price: the columns that both have in common
  bundles     a (segment, location, product), from its weeks to its price
  voice       a (cell, hour, day type), from its weeks to its discount class
  contracts   what a row of each source must look like, and the dirt that is repaired
  job         the declaration, the one file of the model that knows the engine
  release/    what happens to a published price table until charging uses it
  cli         the command `tariffs`
  generator/  the same tables with known truth, and with known dirt
"""
