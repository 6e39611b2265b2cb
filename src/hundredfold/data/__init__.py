"""The data that the stages of a run exchange, and its storage: batches, manifests, results, ..."""
