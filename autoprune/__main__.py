"""`python -m autoprune`."""

from autoprune.cli.main import main

if __name__ == "__main__":
    main()
