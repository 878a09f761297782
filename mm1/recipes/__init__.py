"""Recipes: functions that need no argument and return a complete `Trainer.Config`.

A recipe's name is its function's; a variant is a function that takes another recipe's
config and edits it. This is the only place in the project where a number of the MM1
paper is written.
"""
