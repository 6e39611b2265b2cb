"""`python -m hundredfold` is the command `hundredfold`."""

from .cli import main

main()
