"""The built-in tiny model: its weights, the clips that it learns from, and the programs that train and judge it."""
