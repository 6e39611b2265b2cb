"""`python -m hundredfold` is the command `hundredfold`."""

from .cli.main import main

main()
