"""``python -m cli`` in a checkout, ``python -m badexpert_cli`` where it is installed."""

from .main import main

main()
