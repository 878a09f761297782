"""MM1 in miniature: a world of small images and texts, and what is trained on it.

Its handwritten digits come from scikit-learn: `pip install 'mm1[miniature]'`.
"""
