"""The time and the dollars of a run before it: prices, laws of fleets, simulator, pilot, plan."""
