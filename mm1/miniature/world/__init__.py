"""A world small enough to learn in minutes, written in the formats of real data.

scenes.py     scenes, and how they are drawn
examples.py   the n-th image, caption, page and conversation
text.py       the n-th text without an image
questions.py  the n-th question of a test
raw_files.py  all of it as raw files
prepared.py   all of it as prepared folders
"""
