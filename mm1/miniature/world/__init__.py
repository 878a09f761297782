"""A world small enough to be learnt in minutes, dealt in the formats of real data.

world.py      scenes, and how they are drawn
deal.py       the n-th picture, caption, page and conversation
text.py       the n-th text without a picture
questions.py  the n-th question of a test
write.py      all of it as files
"""
