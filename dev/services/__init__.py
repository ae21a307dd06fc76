"""One module (or package) per development service: it has a ``SERVICE`` and runs by ``python -m`` with its ports."""
