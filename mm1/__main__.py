"""`python -m mm1`, the same as the command `mm1`."""

from mm1.cli import main

if __name__ == "__main__":
    main()
