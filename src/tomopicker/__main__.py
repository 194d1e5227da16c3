"""The command line as ``python -m tomopicker``."""

from tomopicker.cli import main

if __name__ == "__main__":
    main()
