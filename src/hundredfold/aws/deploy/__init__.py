"""Packaging a job for Lambda and deploying its stack."""
