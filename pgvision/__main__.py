"""``python -m pgvision``: the command line."""

from pgvision.cli.app import main

if __name__ == "__main__":
    main()
