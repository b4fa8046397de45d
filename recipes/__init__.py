"""How the bundled models, the codec and the rendered samples were made; not installed."""
