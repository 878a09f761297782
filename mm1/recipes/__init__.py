"""Recipes: functions that need no argument and return a complete `Trainer.Config`.

The name of a recipe is that of its function; a variant calls the same builder with
other arguments, or another recipe. Only these files contain numbers from the MM1 paper.
"""
