"""``python -m reproven`` is the console script ``reproven``."""

from reproven.cli import main

if __name__ == "__main__":
    main()
