"""Is the model right?  Its promises held against a truth that is known (the generator's), and against weeks that it has not seen.

A finished run is opened (`finished`), and the functions that priced it are called again, or the whole job is run again with another
dial: nothing here estimates or prices by a way of its own.  `recovery`, `calibration` and `dial` need the folder `truth` that the
generator wrote; `backtest` asks a run's own rows; `loop` makes an operator who follows the prices for a year.
"""
