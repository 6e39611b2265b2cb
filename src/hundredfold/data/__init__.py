"""Data that passes between the stages of a run, and its bytes: batches, manifests, results, outcomes, checksums."""
