"""The interfaces that a backend implements, and the rules that every implementation shares."""
