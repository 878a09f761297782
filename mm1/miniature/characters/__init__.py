"""Handwritten characters of alphabets that are never seen in training (Omniglot), and
pages about them from which a model may learn to learn from its shots.

`omniglot.py` reads the drawings, `episodes.py` makes pages and questions of them,
`prepared.py` puts both on disk.
"""
