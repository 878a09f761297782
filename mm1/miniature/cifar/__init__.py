"""CIFAR-10's photographs, as captions and pages in words.

`cifar10.py` reads the files, `writing.py` makes sentences and pages of the labels,
`prepared.py` puts them on disk, in raw formats and prepared.
"""
