"""The command line: one file per group of commands, `pgvision.cli.app` puts them together.

Nothing heavy is imported before a command runs, so that ``--help`` and completion answer at once.
"""
