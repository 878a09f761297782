"""`python -m mm1.cli`, as torchrun and studies start it."""

from mm1.cli import main

if __name__ == "__main__":
    main()
