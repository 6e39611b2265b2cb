"""Evaluation of the model: its results compared with a known truth, and with held-out weeks.

A finished run is opened (`run_data`), and the functions that priced it are called again, or the
whole job is run again with another risk setting: nothing here estimates or prices in a way of its
own. `elasticity_recovery`, `calibration` and `risk_sweep` need the folder `truth` that the
generator wrote; `backtest` uses a run's own rows; `simulation` simulates an operator who uses the
prices for a year.
"""
