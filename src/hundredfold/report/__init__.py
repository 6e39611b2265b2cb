"""The report of a run: one HTML file that shows its rows, units, times, results and release."""
