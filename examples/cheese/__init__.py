"""Cheese: the price elasticity of 88 retailers, each alone and each in the light of the others."""
