"""Orange juice: the own-price elasticity of 11 brands in each of 83 stores."""
